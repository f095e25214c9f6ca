from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decollapse.reproduce.side_by_side import Ended, Told, side_by_side


@dataclass(frozen=True)
class Say:
    """Tells its words, one after the other."""

    words: tuple[str, ...]

    def __call__(self, place: int, tell: Callable[[Any], None]) -> None:
        for word in self.words:
            tell(word)


def fail(place: int, tell: Callable[[Any], None]) -> None:
    raise ValueError("there is no such model.")


def die(place: int, tell: Callable[[Any], None]) -> None:
    os._exit(3)


@dataclass(frozen=True)
class Sleep:
    """Tells its process and its place, then sleeps for a minute."""

    def __call__(self, place: int, tell: Callable[[Any], None]) -> None:
        tell((os.getpid(), place))
        time.sleep(60)


def is_alive(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_is_told_comes_in_its_own_order_and_then_the_end() -> None:
    news = list(side_by_side([Say(("a", "b")), Say(("c",))], at_once=2))
    assert [each.what for each in news if isinstance(each, Told) and each.number == 0] == ["a", "b"]
    assert [each.what for each in news if isinstance(each, Told) and each.number == 1] == ["c"]
    ends = [each for each in news if isinstance(each, Ended)]
    assert {end.number for end in ends} == {0, 1}
    assert all(end.failure is None and 0 < end.seconds < 60 for end in ends)


def test_one_at_a_time_is_in_order() -> None:
    news = list(side_by_side([Say(("a",)), Say(("b",)), Say(("c",))], at_once=1))
    assert [each.what for each in news if isinstance(each, Told)] == ["a", "b", "c"]


def test_a_failure_is_named_and_the_others_go_on() -> None:
    news = list(side_by_side([fail, die, Say(("a",))], at_once=1))
    first, second, told, third = news
    assert isinstance(first, Ended)
    assert first.failure == "there is no such model."
    assert "in fail" in first.traceback
    assert isinstance(second, Ended)
    assert second.failure is not None
    assert second.failure.startswith("its process died")
    assert told == Told(2, "a")
    assert isinstance(third, Ended)
    assert third.failure is None


def test_nothing_is_left_running_by_whoever_stops_listening() -> None:
    news = side_by_side([Sleep(), Sleep(), Sleep()], at_once=2)
    told = [next(news), next(news)]
    processes = [each.what[0] for each in told if isinstance(each, Told)]
    places = {each.what[1] for each in told if isinstance(each, Told)}
    assert places == {0, 1}
    assert all(map(is_alive, processes))
    news.close()  # type: ignore[attr-defined]  # it is a generator
    assert not any(map(is_alive, processes))
