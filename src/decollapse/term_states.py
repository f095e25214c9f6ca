"""What the terms of an objective remember of a client from one round to its next, and what its clients share."""

from __future__ import annotations

from collections.abc import Sequence

from decollapse import tree
from decollapse.core import ClientState, ModelState
from decollapse.objective import SendingTerm, SharingTerm, StatefulTerm, Term, Trained
from decollapse.tree import Tree


def starting_states(terms: Sequence[StatefulTerm], state: ClientState, anchor: ModelState, client: int) -> ClientState:
    """The state of each term: what the client kept, or the initial one if it never took part.

    Raises:
        ValueError: the client's state has nothing of a term that keeps something, or is of another model.
    """
    found: ClientState = {}
    for term in terms:
        kept = state.get(term.name)
        found[term.name] = term.init_state(anchor) if kept is None else kept
        if kept is not None:
            _check_model(kept, anchor, term.name, client)
        elif state and found[term.name]:
            raise ValueError(
                f"client {client} has a state, of {', '.join(sorted(state))}, but nothing in it of the term "
                f"{term.name!r}: it is from another algorithm; begin a new run."
            )
    return found


def following_states(terms: Sequence[StatefulTerm], states: ClientState, trained: Trained) -> tuple[ClientState, Tree]:
    """The state of each term after the round, and what the terms send to the server."""
    following: ClientState = {}
    extras: Tree = {}
    for term in terms:
        before = states[term.name]
        after = term.next_state(before, trained)
        if after:
            following[term.name] = after
        if isinstance(term, SendingTerm):
            extras |= tree.prefixed(term.upload(before, after), f"{term.name}/")
    return following, extras


def shared_by(terms: Sequence[Term], shared: Tree, extras: Tree) -> Tree:
    """What the next broadcast carries for the terms, from what the last one did and the mean of what clients sent."""
    following: Tree = {}
    for term in terms:
        if isinstance(term, SharingTerm):
            own = f"{term.name}/"
            following |= tree.prefixed(term.share(tree.under(shared, own), tree.under(extras, own)), own)
    return following


def _check_model(kept: Tree, anchor: ModelState, term: str, client: int) -> None:
    for name, leaf in (anchor.params | anchor.buffers).items():
        if name in kept and kept[name].shape != leaf.shape:
            raise ValueError(
                f"client {client}'s state of the term {term!r} is of another model: {name!r} has shape "
                f"{tuple(kept[name].shape)}, the model's has {tuple(leaf.shape)}; begin a new run."
            )
