"""The test set, evaluated where clients are trained: in parts that an engine sees as further clients.

In one process it is the same as `evaluate`. In several, workers that would wait for the next round share the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import torch
from torch import nn

from decollapse import tree
from decollapse.core import MEASURED, Broadcast, ClientData, ClientResult, ClientState, ModelState
from decollapse.data import Dataset
from decollapse.engines import Clients, Engine
from decollapse.evaluation import Evaluation, Tally
from decollapse.feature_statistics import FeatureStatistics
from decollapse.tree import Tree

EXAMPLES_A_PART = 500
MOST_PARTS = 8
"""However many workers there are, so that the bits of a sum over parts are the same for all."""


@dataclass(frozen=True, eq=False)
class WithTestSet:
    """Clients, and behind the last one the parts of the test set. Its length is that of the clients alone.

    Attributes:
        clients: those who train.
        dataset: whose test set it is.
    """

    clients: Clients
    dataset: Dataset

    @cached_property
    def parts(self) -> range:
        """The numbers of the test set's parts."""
        count = min(-(-len(self.dataset.test_y) // EXAMPLES_A_PART), MOST_PARTS)
        return range(len(self.clients), len(self.clients) + count)

    def __len__(self) -> int:
        return len(self.clients)

    def __getitem__(self, client: int) -> ClientData:
        """One client's examples, or one part of the test set."""
        if client not in self.parts:
            return self.clients[client]
        rows = self._rows(client)
        x, y = self.dataset.test_x[rows], self.dataset.test_y[rows]
        return ClientData(client, x, y, self.dataset.num_classes, self.dataset.preprocess)

    def num_examples(self, client: int) -> int:
        """How many examples a client, or a part, has."""
        if client not in self.parts:
            return self.clients.num_examples(client)
        rows = self._rows(client)
        return int(rows.stop - rows.start)

    def share_memory(self) -> object:
        """Of training and test examples alike."""
        return self.clients.share_memory()

    def _rows(self, part: int) -> slice:
        number, total = part - self.parts.start, len(self.dataset.test_y)
        return slice(number * total // len(self.parts), (number + 1) * total // len(self.parts))


@dataclass(frozen=True)
class EvaluateModel:
    """A client call that trains nothing: it tallies the broadcast model on the client's examples.

    Attributes:
        batch_size: examples a forward pass.
    """

    batch_size: int = 500

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        """A result of no step, with the tally among its extras."""
        broadcast.model.load_into(model)
        tally = Tally.of(
            model,
            data.x,
            data.y,
            num_classes=data.num_classes,
            preprocess=data.preprocess,
            batch_size=self.batch_size,
        )
        extras = tree.prefixed(_as_tree(tally), MEASURED)
        return ClientResult(data.client, len(data), 0, delta={}, buffers={}, metrics={}, extras=extras), state


def evaluate_in_parts(
    engine: Engine, model: ModelState, parts: Sequence[int], *, round: int, batch_size: int = 500
) -> Evaluation:
    """What `model` does on all parts together.

    Args:
        engine: of a federation whose clients are `WithTestSet`.
        model: to evaluate.
        parts: `WithTestSet.parts`.
        round: the model is of; named where something fails.
        batch_size: examples a forward pass.
    """
    results = engine.run(EvaluateModel(batch_size), Broadcast(round, model, seed=0), parts, {})
    return reduce(add, (_from_tree(tree.under(result.extras, MEASURED)) for result, _ in results)).evaluation()


def _as_tree(tally: Tally) -> Tree:
    sums = {
        "loss": torch.tensor(tally.loss, dtype=torch.float64),
        "right": tally.right,
        "counts": tally.counts,
        "correct": tally.correct,
    }
    if tally.statistics is None:
        return sums
    of_features = tally.statistics
    return sums | {"n": of_features.counts, "means": of_features.means, "within": of_features.within}


def _from_tree(sums: Tree) -> Tally:
    statistics = FeatureStatistics(sums["n"], sums["means"], sums["within"]) if "n" in sums else None
    return Tally(float(sums["loss"]), sums["right"], sums["counts"], statistics, sums["correct"])
