"""What travels in the phases of a secure sum: plain tables and arrays, never pickles.

| phase | to a client, in the record `sum` | back, in the record `sum` |
|---|---|---|
| advertise keys | sessions | public keys of each |
| share keys | sessions, everybody's public keys of each | sealed shares of each |
| masked input | session, keys, sharers, encoding, sums completed; and a task, see `messages` | layout; array `words` |
| unmasking | session, keys, sealed shares for this client, survivors | shares |

or back comes a refusal. Bytes are in hexadecimal. What a summand is, the recipe says. Encoding and decoding are pure,
and each other's inverse to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict

from decollapse.aggregate import SummingAggregator
from decollapse.config import from_table
from decollapse.flower.calls import DescribedCall, described
from decollapse.flower.messages import (
    MessageError,
    Task,
    decode_task,
    encode_task,
    json_record,
    read_json,
    read_tree,
)
from decollapse.flower.tensors import encode
from decollapse.schema import Table
from decollapse.secure.encoding import FixedPoint, Layout
from decollapse.secure.keys import SECRET_BYTES
from decollapse.secure.messages import MaskedInput, PublicKeys, SealedShares, Session, Unmasking
from decollapse.secure.participant import AskInput, AskKeys, AskShares, AskUnmasking, Refusal, Reply, Request

SUM, WORDS = "sum", "words"
KEYS, SHARES, INPUT, UNMASKING = "advertise keys", "share keys", "masked input", "unmasking"
WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What comes of reading a table that is none of ours."""


@dataclass(frozen=True, eq=False)
class Asking:
    """A request to one client.

    Attributes:
        client: whom.
        request: what.
        recipe: the experiment's, complete; sent where the client is to train, else empty.
    """

    client: int
    request: Request
    recipe: Table

    @property
    def run(self) -> bytes:
        """The run it is about."""
        return _sessions(self.request)[0].run


def encode_request(asking: Asking) -> RecordDict:
    """The content of a message to a client.

    Raises:
        UnknownCallError: there is no description of the call.
    """
    request, client = asking.request, asking.client
    about: dict[str, Any] = {"client": client, "sessions": [_of_session(each) for each in _sessions(request)]}
    content = RecordDict()
    match request:
        case AskKeys():
            about |= {"phase": KEYS}
        case AskShares(_, everyone):
            about |= {"phase": SHARES, "everyone": [_of_keys(keys) for keys in everyone]}
        case AskInput(_, everyone, sharers, call, broadcast):
            about |= {"phase": INPUT, "everyone": [_of_keys(everyone)], "sharers": sharers}
            about |= {"encoding": asdict(request.encoding), "completed": request.completed}
            content = encode_task(Task(asking.recipe, *described(call), broadcast, client, {}))
        case AskUnmasking(_, everyone, inbox, survivors):
            about |= {"phase": UNMASKING, "everyone": [_of_keys(everyone)], "inbox": _of_bytes(inbox)}
            about |= {"survivors": survivors}
    content[SUM] = json_record(about)
    return content


def decode_request(content: RecordDict) -> Asking:
    """The request that was encoded; its call is built where it is called.

    Raises:
        MessageError: the content is none.
        RecipeError: the recipe cannot be run here.
    """
    about = read_json(content, SUM)
    task = decode_task(content) if about.get("phase") == INPUT else None
    aggregate = None if task is None else from_table(task.recipe).aggregate
    try:
        request = _request(about, task, aggregate)
        return Asking(about["client"], request, {} if task is None else task.recipe)
    except WRONG as error:
        raise MessageError(f"this is no phase of a sum ({error!r}); both sides need one version.") from None


def encode_reply(reply: Reply) -> RecordDict:
    """The content of a client's answer."""
    match reply:
        case Refusal(reason):
            return RecordDict({SUM: json_record({"refusal": reason})})
        case MaskedInput(client, layout, words):
            record = json_record({"client": client, "layout": layout.leaves})
            return RecordDict({SUM: record, WORDS: encode({WORDS: torch.from_numpy(words.view(np.int64))})})
        case Unmasking():
            return RecordDict({SUM: json_record(asdict(reply))})
        case _:
            keys = [_of_keys([each])[0] for each in reply if isinstance(each, PublicKeys)]
            shares = [[each.client, _of_bytes(each.sealed)] for each in reply if isinstance(each, SealedShares)]
            return RecordDict({SUM: json_record({"keys": keys, "shares": shares})})


def decode_reply(content: RecordDict, asking: Asking) -> Reply:
    """The answer to a request.

    Raises:
        MessageError: the content is no answer to this, or that of another client.
    """
    about = read_json(content, SUM)
    if isinstance(about.get("refusal"), str):
        return Refusal(about["refusal"])
    words = read_tree(content, WORDS) if isinstance(asking.request, AskInput) else {}
    try:
        reply = _reply(about, asking.request, words)
    except WRONG as error:
        raise MessageError(f"it is no answer to what was asked ({error!r}).") from None
    if any(sender != asking.client for sender in _senders(reply)):
        raise MessageError(f"it is of another client, and client {asking.client} was asked.")
    return reply


def _request(about: Table, task: Task | None, aggregate: Any) -> Request:
    sessions = tuple(
        Session(bytes.fromhex(each["run"]), each["number"], tuple(each["clients"]), each["threshold"])
        for each in about["sessions"]
    )
    if about["phase"] == KEYS and sessions:
        return AskKeys(sessions)
    everyone = tuple(_keys(keys) for keys in about["everyone"])
    if about["phase"] == SHARES:
        return AskShares(sessions, everyone)
    if task is not None and isinstance(aggregate, SummingAggregator):
        call = DescribedCall(task.call, task.tensors)
        encoding, completed = FixedPoint(**about["encoding"]), tuple(about["completed"])
        sharers = tuple(about["sharers"])
        return AskInput(sessions[0], everyone[0], sharers, call, task.broadcast, aggregate, encoding, completed)
    if about["phase"] == UNMASKING:
        return AskUnmasking(sessions[0], everyone[0], _bytes(about["inbox"]), tuple(about["survivors"]))
    raise ValueError(f"phase {about['phase']!r}")


def _reply(about: Table, request: Request, words: dict[str, torch.Tensor]) -> Reply:
    match request:
        case AskKeys(sessions):
            keys = _keys(about["keys"])
            if len(keys) != len(sessions) or any(len(key) != SECRET_BYTES for k in keys for key in (k.cipher, k.mask)):
                raise ValueError("keys of other sums, or of another length")
            return keys
        case AskShares(_, everyone):
            shares = tuple(SealedShares(client, _bytes(sealed)) for client, sealed in about["shares"])
            for own, keys in zip(shares, everyone, strict=True):
                if own.sealed.keys() != {other.client for other in keys}:
                    raise ValueError("shares for other clients")
            return shares
        case AskInput():
            layout = Layout(tuple((name, tuple(shape), dtype) for name, shape, dtype in about["layout"]))
            if words[WORDS].dtype != torch.int64 or words[WORDS].dim() != 1:
                raise ValueError("no words")
            return MaskedInput(about["client"], layout, words[WORDS].numpy().view(np.uint64))
        case AskUnmasking():
            return Unmasking(about["client"], _numbers(about["self_masks"]), _numbers(about["mask_keys"]))


def _senders(reply: Reply) -> list[int]:
    match reply:
        case Refusal():
            return []
        case MaskedInput() | Unmasking():
            return [reply.client]
        case _:
            return [each.client for each in reply]


def _sessions(request: Request) -> tuple[Session, ...]:
    match request:
        case AskKeys() | AskShares():
            return request.sessions
        case AskInput() | AskUnmasking():
            return (request.session,)


def _of_session(session: Session) -> Table:
    return asdict(session) | {"run": session.run.hex()}


def _of_keys(everyone: Sequence[PublicKeys]) -> list[Any]:
    return [[keys.client, keys.cipher.hex(), keys.mask.hex()] for keys in everyone]


def _keys(rows: Sequence[Any]) -> tuple[PublicKeys, ...]:
    return tuple(PublicKeys(client, bytes.fromhex(cipher), bytes.fromhex(mask)) for client, cipher, mask in rows)


def _of_bytes(letters: Any) -> dict[str, str]:
    return {str(client): letter.hex() for client, letter in letters.items()}


def _bytes(table: Table) -> dict[int, bytes]:
    return {int(client): bytes.fromhex(letter) for client, letter in table.items()}


def _numbers(table: Table) -> dict[int, int]:
    if not all(type(number) is int and number >= 0 for number in table.values()):
        raise ValueError("shares are numbers")
    return {int(client): number for client, number in table.items()}
