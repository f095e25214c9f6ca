from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decollapse.config import RecipeError
from decollapse.search import OptunaMissingError, Search, run_trials
from decollapse.search.space import Choice, Range, varied


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server.lr=0.1..10", Range("server.lr", 0.1, 10)),
        ("server.lr=1e-3..1e1:log", Range("server.lr", 0.001, 10.0, log=True)),
        ("client.epochs=1..10", Range("client.epochs", 1, 10)),
        ("x=-1..1", Range("x", -1, 1)),
        (" x = 1 .. 2 : log ", Range("x", 1, 2, log=True)),
        ("client.optimizer.lr=0.01,0.1", Choice("client.optimizer.lr", ("0.01", "0.1"))),
        ("model=mlp,resnet8", Choice("model", ("mlp", "resnet8"))),
        ("model.hidden=[64],[128,64]", Choice("model.hidden", ("[64]", "[128, 64]"))),
        ("data.name=npz:../a,npz:../b", Choice("data.name", ("npz:../a", "npz:../b"))),
    ],
)
def test_a_range_or_a_list_is_read(text: str, expected: Range | Choice) -> None:
    assert varied(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("beta", "--vary is written key=low..high, key=low..high:log or key=a,b,c"),
        ("=1..2", "--vary is written"),
        ("beta=", "--vary is written"),
        ("beta=1..", "beta: a range is written low..high or low..high:log"),
        ("beta=..1", "beta: a range is written"),
        ("beta=1...2", "beta: a range is written"),
        ("beta=1..2..3", "beta: a range is written"),
        ("beta=1..2:linear", "beta: a range is written"),
        ("beta=1..x", "beta: a range is written"),
        ("beta=2..1", "beta: a range goes from a number to a greater one, got 2..1"),
        ("beta=1..1", "a range goes from"),
        ("beta=0..inf", "a range goes from"),
        ("beta=0..1:log", "beta: a range on a log scale begins above 0, got 0..1"),
        ("beta=1,1", "a value twice"),
    ],
)
def test_what_is_no_range_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        varied(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e3))
def test_the_ends_of_a_range_are_written_as_they_were_meant(low: float, factor: float) -> None:
    ends = Range("x", low, low * factor).ends
    assert [float(end) for end in ends] == [low, low * factor]


def test_without_optuna_the_answer_is_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(OptunaMissingError, match=r"pip install 'decollapse\[search\]'"):
        run_trials(Search(None, (), (varied("rounds=1..2"),), tmp_path), 1)


def test_values_are_drawn_inside_the_range_and_whole_where_the_ends_are() -> None:
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {part: [] for part in ("epochs", "lr", "mixed", "model")}
    parts = [varied(text) for text in ("epochs=1..3", "lr=0.001..1:log", "mixed=1..2.5", "model=mlp,resnet8")]
    for _ in range(40):
        trial = study.ask()
        for part in parts:
            drawn[part.key].append(part.suggest(trial))
    assert set(drawn["epochs"]) == {"1", "2", "3"}
    assert set(drawn["model"]) == {"mlp", "resnet8"}
    rates = [float(value) for value in drawn["lr"]]
    assert all(0.001 <= rate <= 1 for rate in rates)
    assert sum(rate < 0.0316 for rate in rates) > 10  # half of them, on a log scale
    assert any("." in value for value in drawn["mixed"])
