from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from members import initial_model, noisy_network, small_federation

from decollapse.client import ClientUpdate
from decollapse.core import Broadcast, ClientCall, ClientData, ClientResult, ClientState
from decollapse.engines import ClientError, Engine
from decollapse.engines.process import Process
from decollapse.engines.worker import WorkerDiedError

BROADCAST = Broadcast(round=2, model=initial_model(), seed=0)


@dataclass(frozen=True)
class Misbehaving:
    """A client call that does something else than training on one client."""

    act: str
    on: int

    def __call__(
        self, model: torch.nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        if data.client == self.on:
            if self.act == "raise":
                raise ValueError("the tape is torn")
            if self.act == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.3)
        return ClientResult(data.client, len(data), 1, {"pid": torch.tensor(os.getpid())}, {}, {}), state


@dataclass(frozen=True)
class AlwaysRaising:
    """A client call that fails on every client, a moment after the others have begun."""

    def __call__(
        self, model: torch.nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        time.sleep(0.1)
        raise ValueError("the tape is torn")


@dataclass(frozen=True)
class OutOfMemory:
    """A client call that asks for too much."""

    def __call__(
        self, model: torch.nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        raise MemoryError("no more")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Process(workers=2)(small_federation()) as started:
        yield started


def test_results_come_in_cohort_order_although_the_first_client_is_the_slowest(engine: Engine) -> None:
    call: ClientCall = Misbehaving("sleep", on=3)
    results = [result for result, _ in engine.run(call, BROADCAST, [3, 0, 1, 2, 4], {})]
    assert [result.client for result in results] == [3, 0, 1, 2, 4]
    pids = {result.client: int(result.delta["pid"]) for result in results}
    assert len(set(pids.values())) == 2
    assert os.getpid() not in pids.values()


def test_what_a_client_raises_is_raised_here_with_client_round_and_traceback(engine: Engine) -> None:
    with pytest.raises(ClientError, match="client 1 failed in round 2: ValueError: the tape is torn") as error:
        list(engine.run(Misbehaving("raise", on=1), BROADCAST, [0, 1, 2], {}))
    assert "Traceback" in error.value.__notes__[-1]


def test_after_a_failed_round_the_engine_goes_on(engine: Engine) -> None:
    with pytest.raises(ClientError, match="the tape is torn"):
        list(engine.run(Misbehaving("raise", on=0), BROADCAST, [0, 1, 2, 3, 4], {}))
    results = [result.client for result, _ in engine.run(ClientUpdate(), BROADCAST, range(5), {})]
    assert results == [0, 1, 2, 3, 4]


def test_failures_of_a_round_that_was_given_up_are_not_the_next_rounds(engine: Engine) -> None:
    with pytest.raises(ClientError):
        list(engine.run(AlwaysRaising(), BROADCAST, [0, 1, 2], {}))
    results = [result for result, _ in engine.run(Misbehaving("sleep", on=9), BROADCAST, [0, 1], {})]
    assert [result.client for result in results] == [0, 1]


def test_a_killed_worker_is_an_error_that_names_the_client_and_not_a_hang() -> None:
    with Process(workers=2)(small_federation()) as engine, pytest.raises(WorkerDiedError, match="client 1 in round 2"):
        list(engine.run(Misbehaving("die", on=1), BROADCAST, [0, 1, 2], {}))


def test_there_are_never_more_workers_than_clients() -> None:
    federation = small_federation(num_clients=1)
    with Process(workers=8)(federation) as engine:
        assert len(engine._workers) == 1  # the engine's own workers


def test_more_workers_than_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    with pytest.warns(UserWarning, match="2 threads of workers wait for"), Process(workers=2)(small_federation()):
        pass


def test_memory_that_runs_out_says_what_to_lower(engine: Engine) -> None:
    with pytest.raises(ClientError, match="MemoryError: no more; memory ran out: use a smaller client.batch_size"):
        list(engine.run(OutOfMemory(), BROADCAST, [0], {}))


def test_no_worker_is_no_engine() -> None:
    with pytest.raises(ValueError, match="at least 1 worker, got 0"):
        Process(workers=0)


def test_the_network_of_the_tests_takes_one_example() -> None:
    assert noisy_network()(torch.zeros(1, 1, 8, 8)).logits.shape == (1, 4)
