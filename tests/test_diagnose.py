"""`decollapse diagnose`: of run folders, of any checkpoint, and of everything a person can get wrong."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from decollapse import cli
from decollapse.config import load_recipe
from decollapse.diagnose.finding import Finding
from decollapse.diagnose.folder import diagnose_runs, reference
from decollapse.diagnose.table import print_findings
from decollapse.diagnose.weights import diagnose_weights, load_weights, read_weights
from decollapse.diagnosis.caveats import caveats, reference_caveats
from decollapse.diagnosis.verdict import Evidence, judge
from decollapse.experiment import prepare
from decollapse.models import MLP, HookedClassifier
from decollapse.runs import RunFolder
from decollapse.spectrum import effective_rank

TINY = [
    *("data=digits", "data.train_size=200", "model=mlp", "model.hidden=[24,24]", "partition.min_examples=5"),
    *("num_clients=4", "client.epochs=2", "rounds=2", "engine=serial", "server.momentum=0.5"),
]
CIFAR10 = Path(__file__).resolve().parents[1] / "docs" / "results" / "cifar10"
OF_DIGITS = ("--model", "mlp", "--data", "digits")


def settings(*values: str) -> list[str]:
    return [word for value in values for word in ("-s", value)]


def train(out: Path, *values: str) -> Path:
    assert cli.run_command(["run", *settings(*TINY, *values), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every round was diagnosed."""
    return train(tmp_path_factory.mktemp("measured") / "run", "evaluation.local_every=1")


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, without local models."""
    return train(tmp_path_factory.mktemp("unmeasured") / "run", "evaluation.local_every=0")


@pytest.fixture
def copy(measured: Path, tmp_path: Path) -> Path:
    """The measured run, to be broken."""
    return Path(shutil.copytree(measured, tmp_path / "copy"))


def diagnose(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.run_command(["diagnose", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def one(*paths: Path, **options: Any) -> Finding:
    (finding,) = diagnose_runs(paths, **options)
    return finding


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]


def rewrite(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every record of a run."""
    changed = records(run)
    for record in changed:
        change(record)
    (run / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in changed))


def forget(record: dict[str, Any]) -> None:
    record["diagnosis"] = None


# Of a run


def test_it_says_what_the_last_diagnosed_round_was_found_to_be(measured: Path) -> None:
    found, recorded = one(measured), records(measured)[-1]["diagnosis"]
    assert found.source == "round 2"
    assert found.verdict.sentence == recorded["verdict"]["sentence"]
    assert found.evidence.local_ranks == tuple(recorded["evidence"]["local_ranks"])
    assert found.neural_collapse == recorded["neural_collapse"]
    assert found.accuracy == records(measured)[-1]["evaluation"]["accuracy"]
    assert [row.features for row in found.ranks] == [
        "averaged model",
        "local models (median of 4)",
        "local models side by side",
        "mean of their features",
    ]
    assert effective_rank(torch.tensor(found.spectrum)) > 1


def test_another_round_can_be_asked_for(measured: Path) -> None:
    found = one(measured, round=1)
    assert found.source == "round 1"
    assert found.evidence.averaged_rank == records(measured)[1]["diagnosis"]["evidence"]["averaged_rank"]


def test_the_verdict_is_made_anew_by_the_rules_of_today(copy: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        if record["diagnosis"]:
            record["diagnosis"]["verdict"] = {"cause": "dead_units", "sentence": "Old.", "remedy": "Old."}
            record["diagnosis"]["evidence"]["something_new"] = 1

    rewrite(copy, change)
    assert one(copy).verdict == judge(one(copy).evidence)


def test_without_local_models_the_checkpoint_is_measured_on_the_probe(measured: Path, unmeasured: Path) -> None:
    found, recorded = one(unmeasured), records(measured)[-1]["diagnosis"]
    assert found.source == "round 2, without local models"
    assert found.evidence.local_ranks == ()
    assert found.evidence.averaged_rank == pytest.approx(recorded["evidence"]["averaged_rank"], rel=1e-6)
    assert found.evidence.num_examples == recorded["evidence"]["num_examples"]
    assert dict(found.neural_collapse) == pytest.approx(recorded["neural_collapse"], rel=1e-5)
    assert found.ranks[0].correlation == pytest.approx(recorded["attribution"]["correlation"]["averaged"], rel=1e-6)


def test_runs_from_before_the_diagnosis_are_judged_by_the_eigenvalues_of_their_local_models(copy: Path) -> None:
    before = one(copy)
    rewrite(copy, forget)
    after = one(copy)
    assert after.source == before.source
    assert after.evidence.averaged_rank > 1
    assert after.evidence.local_ranks == pytest.approx(before.evidence.local_ranks, rel=1e-4)
    assert after.evidence.num_examples == before.evidence.num_examples == 360
    assert after.neural_collapse == {}
    assert after.verdict.cause == before.verdict.cause


def test_the_untrained_model_is_told_to_be_that(measured: Path) -> None:
    found = one(measured, round=0)
    assert found.evidence.local_ranks == ()
    assert "This is the untrained model: its rank says nothing of training." in found.caveats


def test_a_run_folder_without_weights_is_judged_by_what_it_has() -> None:
    collapsed = one(CIFAR10 / "resnet20" / "seed=0,beta=0")
    repaired = one(CIFAR10 / "resnet20" / "seed=0,beta=0.1")
    assert (collapsed.verdict.cause, repaired.verdict.cause) == ("local_training", "few_classes")
    assert collapsed.evidence.num_examples == 1000


def test_against_a_healthy_run_its_rank_is_what_is_expected() -> None:
    healthy = CIFAR10 / "small_cnn_covariance" / "seed=0,beta=0.01"
    alone = one(CIFAR10 / "small_cnn" / "seed=1,beta=0")
    compared = one(CIFAR10 / "small_cnn" / "seed=1,beta=0", against=healthy)
    assert (alone.verdict.cause, compared.verdict.cause) == ("few_classes", "local_training")
    assert compared.evidence.expected_rank == reference(healthy).evidence.averaged_rank
    assert one(healthy, against=healthy).verdict.cause == "no_collapse"


def test_several_runs_are_judged_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = diagnose(capsys, CIFAR10 / "resnet20")
    assert code == 0
    assert [line for line in out.splitlines() if line.endswith(", round 6")] == [
        f"{folder}, round 6" for folder in sorted((CIFAR10 / "resnet20").iterdir())
    ]


def test_the_verdict_comes_first_and_then_its_numbers(capsys: pytest.CaptureFixture[str], measured: Path) -> None:
    code, out, err = diagnose(capsys, measured)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{measured}, round 2"
    found = one(measured)
    assert " ".join(out.split()).find(found.verdict.sentence) < out.find("effective rank, of d = 24")
    for row in found.ranks:
        assert any(
            line.split() == [*row.features.split(), f"{row.covariance:.1f}", f"{row.correlation:.1f}"] for line in lines
        )
    for name in ("NC1", "NC2, lengths", "NC2, angles", "NC3", "NC4", "agreement of updates", "dead dimensions"):
        assert name in out
    assert "spectrum |█" in out
    assert "\x1b" not in out
    assert max(map(len, lines)) <= 120


def test_json_has_every_number_and_no_nan(capsys: pytest.CaptureFixture[str], measured: Path, unmeasured: Path) -> None:
    code, out, _ = diagnose(capsys, measured, unmeasured, "--json")
    first, second = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert first["verdict"]["cause"] == one(measured).verdict.cause
    assert first["expected_rank"] == 9
    assert len(first["spectrum"]) == 24
    assert set(first["alignment"]) == {"cka_between", "agreement", "lost_variance"}
    assert second["alignment"] == {}
    assert second["subject"] == str(unmeasured)


def test_the_page_shows_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path("docs/diagnosis.md")
    monkeypatch.chdir(CIFAR10.parents[2])
    block = page.read_text().partition("```console\n$ decollapse diagnose ")[2].partition("```")[0]
    command, _, shown = block.partition("\n")
    code, out, _ = diagnose(capsys, command)
    assert code == 0
    assert [line for line in map(str.rstrip, out.splitlines()) if line] == [line for line in shown.splitlines() if line]


# Of any checkpoint


def test_the_checkpoint_of_a_run_is_a_file_of_weights(measured: Path) -> None:
    found = diagnose_weights(measured / "checkpoint.safetensors", "mlp", "digits", overrides=["model.hidden=[24,24]"])
    assert found.accuracy == records(measured)[-1]["evaluation"]["accuracy"]
    assert found.evidence.averaged_rank == pytest.approx(
        records(measured)[-1]["spectrum"]["covariance"]["effective_rank"], rel=0.01
    )
    assert found.source == "mlp on the 360 test examples of digits"


MODULE = """
import torch
from torch import nn

def net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))

def dead(num_classes):
    model = net(num_classes)
    nn.init.constant_(model[1].bias, -1e3)
    return model

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, num_classes))

def broken(num_classes):
    model = net(num_classes)
    nn.init.constant_(model[3].weight, float("nan"))
    return model
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that somebody else wrote."""
    (tmp_path / "their_models.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import their_models

    return their_models


def saved(model: nn.Module, path: Path) -> Path:
    save_file(model.state_dict(), path)
    return path


@pytest.mark.parametrize(("factory", "layer"), [("net", "3"), ("Net", "4")])
def test_a_model_of_another_package_is_measured_at_the_layer_named(
    package: Any, tmp_path: Path, factory: str, layer: str
) -> None:
    model = getattr(package, factory)(10)
    path = saved(model, tmp_path / "w.safetensors")
    found = diagnose_weights(path, f"their_models:{factory}", "digits", layer=layer)
    assert (found.evidence.num_features, found.evidence.num_examples) == (32, 360)
    probe = prepare(load_recipe(None, ["data=digits", "model=mlp", "partition=iid"])).dataset
    with torch.no_grad():
        logits = model.eval()(probe.preprocess(probe.test_x))
    assert found.accuracy == pytest.approx(float((logits.argmax(1) == probe.test_y).double().mean()))
    assert found.neural_collapse["nc3"] is not None
    assert found.source.endswith(f"layer {layer}")


def test_the_output_of_a_layer_can_be_taken_and_the_model_may_be_ours(measured: Path) -> None:
    weights, small = measured / "checkpoint.safetensors", ["model.hidden=[24,24]"]
    at_head = diagnose_weights(weights, "mlp", "digits", overrides=small)
    hooked = diagnose_weights(weights, "mlp", "digits", layer="encoder.linear1", take="output", overrides=small)
    assert hooked.evidence.averaged_rank != at_head.evidence.averaged_rank
    assert diagnose_weights(weights, "mlp", "digits", layer="head", overrides=small).spectrum == at_head.spectrum


def test_dead_units_of_another_packages_model_are_found(package: Any, tmp_path: Path) -> None:
    path = saved(package.dead(10), tmp_path / "w.safetensors")
    found = diagnose_weights(path, "their_models:dead", "digits", layer="3")
    assert found.verdict.cause == "dead_units"
    assert "32 of 32 dimensions are dead" in found.verdict.sentence
    assert found.as_json()["neural_collapse"]["nc1"] is None


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "network.", "module._orig_mod."])
def test_wrappers_of_a_saved_model_do_not_matter(prefix: str) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    load_weights(model, {f"{prefix}{name}": leaf for name, leaf in other.state_dict().items()}, where="w")
    assert torch.equal(model.weight, other.weight)
    hooked = HookedClassifier(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), "1")
    again = HookedClassifier(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), "1")
    load_weights(hooked, {f"{prefix}{name}": leaf for name, leaf in again.state_dict().items()}, where="w")
    assert torch.equal(hooked.network[0].weight, again.network[0].weight)


def test_half_precision_weights_are_widened() -> None:
    model = nn.Linear(3, 2)
    half = {name: leaf.half() for name, leaf in nn.Linear(3, 2).state_dict().items()}
    load_weights(model, half, where="w")
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight, half["weight"].float())


def test_weights_that_several_names_share_need_to_be_there_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight

    model = Tied()
    load_weights(model, {"a.weight": torch.full((2, 2), 7.0)}, where="w")
    assert torch.equal(model.b.weight.detach(), torch.full((2, 2), 7.0))


# Caveats


def test_a_small_probe_says_how_far_it_can_be_trusted() -> None:
    (sentence,) = caveats(Evidence(360, 1280, 10, 0, 20.0))
    assert "360 for d = 1,280" in sentence
    assert "at most min(d, N - 1) = 359" in sentence
    assert caveats(Evidence(6400, 1280, 10, 0, 20.0)) == ()


def test_classes_missing_from_the_probe_are_counted(package: Any, tmp_path: Path) -> None:
    (sentence,) = caveats(Evidence(1000, 20, 7, 0, 20.0), num_missing=3)
    assert sentence.startswith("3 of 10 classes have no example in the probe")
    for split, classes in (("train", 10), ("test", 4)):
        np.savez(tmp_path / f"{split}.npz", x=np.random.default_rng(0).normal(size=(80, 64)), y=np.arange(80) % classes)
    path = saved(package.net(10), tmp_path / "w.safetensors")
    found = diagnose_weights(path, "their_models:net", f"npz:{tmp_path}", layer="3")
    assert any(sentence.startswith("6 of 10 classes have no example") for sentence in found.caveats)
    assert found.evidence.num_classes == 4


@pytest.mark.parametrize(("accuracy", "said"), [(0.10, True), (0.12, True), (0.14, False), (None, False)])
def test_a_model_no_better_than_chance_is_told_to_be_that(accuracy: float | None, said: bool) -> None:
    found = caveats(Evidence(1000, 64, 10, 0, 2.0), accuracy=accuracy)
    assert any("no more than by chance" in sentence for sentence in found) is said


def test_a_reference_that_is_collapsed_or_measured_otherwise_is_told_to_be_that() -> None:
    run, healthy = Evidence(1000, 64, 10, 0, 5.0), Evidence(1000, 64, 10, 0, 30.0)
    assert reference_caveats(run, healthy) == ()
    assert "collapsed itself" in reference_caveats(run, run)[0]
    other = reference_caveats(run, Evidence(2000, 64, 10, 0, 30.0))
    assert other[0].startswith("The reference was measured on 2,000 examples and this on 1,000")


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "at least one run folder, or --weights with --model and --data"),
        (["nowhere"], "there is no folder nowhere"),
        (["."], "holds no run"),
        (["--model", "mlp"], "--model goes with --weights"),
        (["x", "--layer", "fc"], "--layer goes with --weights"),
        (["--weights", "w.safetensors"], "what the weights are of: --model and --data"),
        (["x", "--weights", "w.safetensors", *OF_DIGITS], "give one or the other"),
        (["--weights", "w.safetensors", *OF_DIGITS], "there is no file w.safetensors"),
        (["--weights", "w.pt", *OF_DIGITS], "w.pt looks like a pickle, which can run code when it is loaded"),
        (["--weights", "noise.safetensors", *OF_DIGITS], "noise.safetensors is no safetensors file, or is truncated"),
        (
            ["--weights", "net.safetensors", "--model", "resnet21", "--data", "digits"],
            "model = 'resnet21' is not known",
        ),
        (["--weights", "net.safetensors", "--model", "mlp", "--data", "digit"], "did you mean 'digits'?"),
        (["--weights", "net.safetensors", *OF_DIGITS, "-s", "model.nrm=batch"], "did you mean 'norm'?"),
        (
            ["--weights", "net.safetensors", *OF_DIGITS],
            "it has no 'encoder.linear1.weight'; the nearest names in it are",
        ),
        (["--weights", "net.safetensors", "--model", "their_models:nett", "--data", "digits"], "(nearest: net)"),
        (["--weights", "net.safetensors", "--model", "their_models:net", "--data", "digits"], "name the layer"),
        (
            ["--weights", "net.safetensors", "--model", "their_models:net", "--data", "digits", "--layer", "33"],
            "the network has no layer '33'; the nearest names are 3",
        ),
        (
            ["--weights", "net.safetensors", "--model", "their_models:net", "--data", "digits", "--layer", "0"],
            "the input of layer '0' must have shape (n, d), got (2, 1, 8, 8)",
        ),
        (
            ["--weights", "nan.safetensors", "--model", "their_models:net", "--data", "digits", "--layer", "3"],
            "the features or the logits are NaN or infinite; the model has diverged",
        ),
    ],
)
def test_a_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    package: Any,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(package.net(10), tmp_path / "net.safetensors")
    saved(package.broken(10), tmp_path / "nan.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"\x00" * 100)
    (tmp_path / "w.pt").write_bytes(b"")
    code, out, err = diagnose(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("decollapse: ")
    assert len(err.splitlines()) == 1
    assert sentence in err


def test_weights_of_another_shape_or_another_model_are_refused() -> None:
    model = MLP(hidden=(4,))((8,), 3)
    fits = model.state_dict()
    with pytest.raises(ValueError, match=r"'head.weight' has shape \(5, 4\), the model's has \(3, 4\); check"):
        load_weights(model, fits | {"head.weight": torch.zeros(5, 4)}, where="w")
    with pytest.raises(ValueError, match="the model, which has no 'head.wieght'; the nearest names are head.weight"):
        load_weights(model, fits | {"head.wieght": torch.zeros(3, 4)}, where="w")


def test_a_refused_file_changes_no_weight() -> None:
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    with pytest.raises(ValueError, match="no 'bias'"):
        load_weights(model, {"weight": torch.zeros(2, 3)}, where="w")
    assert torch.equal(model.weight, before)


def test_only_the_models_tensors_are_read_of_a_checkpoint(measured: Path) -> None:
    found = read_weights(measured / "checkpoint.safetensors")
    assert {name.partition("|")[0] for name in load_file(measured / "checkpoint.safetensors")} >= {"params"}
    assert all(name.startswith(("params|", "buffers|")) for name in found)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"round": 7}, "has no round 7; its rounds are 0 to 2"),
        ({"against": Path("nowhere")}, "there is no folder nowhere"),
        ({"against": CIFAR10}, "holds 24 runs; name the one to compare with"),
        ({"against": CIFAR10 / "resnet20" / "seed=0,beta=0"}, "has 64 features and 10 classes, .* has 24 and 10"),
    ],
)
def test_what_cannot_be_judged_or_compared_is_refused(measured: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        diagnose_runs([measured], **options)


def test_a_run_of_which_nothing_is_left_is_refused(copy: Path) -> None:
    rewrite(copy, forget)
    shutil.rmtree(copy / "spectra")
    assert one(copy).source == "round 2, without local models"
    with pytest.raises(ValueError, match="nothing was measured of round 1 .*, and the checkpoint is of round 2"):
        diagnose_runs([copy], round=1)
    (copy / "checkpoint.safetensors").unlink()
    with pytest.raises(ValueError, match="nothing was measured of any round, and there is no checkpoint"):
        diagnose_runs([copy])


def test_a_damaged_diagnosis_is_refused(copy: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        if record["diagnosis"]:
            del record["diagnosis"]["evidence"]["local_ranks"]

    rewrite(copy, change)
    with pytest.raises(ValueError, match="the diagnosis of round 2 is damaged"):
        diagnose_runs([copy])


def test_other_data_than_the_run_began_with_are_refused(unmeasured: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(unmeasured, tmp_path / "copy"))
    description = json.loads((copy / "run.json").read_text())
    description["fingerprint"] = "of other data"
    (copy / "run.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="the data 'digits' are not those .* began with"):
        diagnose_runs([copy])


def test_a_run_that_diverged_and_one_that_averages_nothing_are_refused(tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", "algorithm=clients_only", "evaluation.local_every=0")
    with pytest.raises(ValueError, match="its clients keep models of their own, and there is no averaged one"):
        diagnose_runs([alone])
    diverged = train(tmp_path / "diverged", "evaluation.local_every=0", "rounds=1")
    folder = RunFolder.open(diverged)
    state = folder.load()
    assert state is not None
    state.model.params["head.bias"].fill_(math.nan)
    from decollapse.checkpoint import save_checkpoint

    save_checkpoint(diverged / "checkpoint.safetensors", state, recipe=folder.digest)
    with pytest.raises(ValueError, match="features of round 1 are NaN or infinite; it has diverged"):
        diagnose_runs([diverged])


def test_printing_nothing_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([], as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_a_spectrum_of_zeros_is_not_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    evidence = Evidence(1000, 4, 10, 4, 0.0)
    finding = Finding("x", "round 1", judge(evidence), evidence, (), {}, {}, None, (0.0,) * 4, ())
    print_findings([finding], as_json=False)
    assert "spectrum" not in capsys.readouterr().out


def test_measuring_leaves_the_weights_file_as_it_is(measured: Path) -> None:
    path = measured / "checkpoint.safetensors"
    before: bytes = path.read_bytes()
    diagnose_weights(path, "mlp", "digits", overrides=["model.hidden=[24,24]"])
    tensor: Tensor = next(iter(load_file(path).values()))
    assert path.read_bytes() == before
    assert tensor.isfinite().all()
