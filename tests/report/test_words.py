from __future__ import annotations

import json

from decollapse.report import group_runs, read_run, summary_rows, words


def grouped(paths):
    return group_runs([read_run(path) for path in paths])


def test_the_title_names_few_settings_and_counts_many(two_groups, six_groups) -> None:
    assert words.title(grouped(two_groups)) == "FedAvg and FedAvg + FedDecorr 0.1 on fashion-mnist-small"
    assert words.title(grouped(six_groups)) == "6 settings on fashion-mnist-small"


def test_the_summary_gives_numbers_with_their_round_and_seeds(write_run) -> None:
    def change(record):
        measures = {"covariance": {"effective_rank": 7.25}}
        return {**record, "evaluation": {"accuracy": 0.5, "loss": 1.0}, "spectrum": measures}

    rows = summary_rows(grouped([write_run("a", seed=0, change=change), write_run("b", seed=1, change=change)]))
    assert words.summary(rows, 64) == (
        "FedAvg: 50.0 ± 0.0 % test accuracy, effective rank 7.2 ± 0.0 of 64. "
        "After round 6, mean ± standard deviation over 2 seeds."
    )


def test_the_summary_of_many_settings_names_lowest_and_highest(six_groups) -> None:
    rows = summary_rows(grouped(six_groups))
    accuracies = {row.label: row.values["accuracy"].mean for row in rows}
    sentence = words.summary(rows, 64)
    assert sentence.startswith(f"Test accuracy from {min(accuracies.values()):.1f}")
    assert f"({max(accuracies, key=accuracies.get)})" in sentence


def test_a_summary_without_evaluations_says_so(write_run) -> None:
    rows = summary_rows(grouped([write_run("a", finished=None)]))
    assert words.summary(rows, None) == "No run has been evaluated yet."


def test_facts_are_what_all_settings_share(six_groups) -> None:
    found = words.facts(grouped(six_groups))
    assert found[:4] == ["Dirichlet", "10 clients", "ResNet-20", "10 local epochs"]
    assert found[-2:] == ["64 features", "seeds 0, 1 and 2"]


def test_notes_tell_of_unfinished_empty_repeated_diverged_and_rejected(write_run) -> None:
    def change(record):
        rejected = [{"client": 1, "reason": "NaN in head.weight"}] if record["round"] == 2 else []
        return {**record, "rejected": rejected, "evaluation": {"accuracy": 0.1, "loss": None}}

    paths = [
        write_run("whole", seed=0),
        write_run("twin", seed=0),
        write_run("cut", seed=1, finished=3),
        write_run("new", seed=2, finished=None),
        write_run("nan", seed=3, change=change),
    ]
    assert words.notes(grouped(paths)) == [
        "cut is unfinished: 3 of 6 rounds. It is drawn as a dotted line and is in no mean.",
        "new has no finished round yet; it is in no number and no chart.",
        "nan: the loss is not a finite number after round 0.",
        "nan: 1 client update rejected; see below.",
        "FedAvg: seed 0 appears 2 times, so the standard deviation is too small.",
    ]


def test_sound_runs_need_no_note(two_groups) -> None:
    assert words.notes(grouped(two_groups)) == []


def test_a_recipe_that_says_little_is_no_error(write_run) -> None:
    folder = write_run("a", recipe={})
    description = json.loads((folder / "run.json").read_text())
    for key in ("versions", "machine", "partition", "model", "started"):
        description[key] = None
    (folder / "run.json").write_text(json.dumps(description))
    groups = grouped([folder])
    assert words.title(groups) == "FedAvg"
    assert words.facts(groups) == ["FedAvg", "64 features"]
