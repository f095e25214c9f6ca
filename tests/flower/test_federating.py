"""`decollapse flower` as a person meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from decollapse import cli
from decollapse.cli import federating

if find_spec("flwr"):
    from decollapse.flower.local import STARTED_AS, LocalFederation
    from decollapse.flower.processes import with_environment


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run_command(["flower", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [("new", "app"), ("up",)])
def test_without_flower_one_sentence_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(federating, "find_spec", lambda name: None)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err == "decollapse: this needs Flower, which is not installed: pip install 'decollapse[flower]'.\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("flwr") is None, reason="flwr is not installed")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("new", "my_app"), "letters, digits and hyphens"),
        (("up", "--nodes", "0"), "at least 1 node"),
        (("upp",), 'Did you mean "up"?'),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert sentence in err.strip().splitlines()[-1]


@pytest.mark.skipif(find_spec("flwr") is None, reason="flwr is not installed")
def test_a_new_app_says_what_to_do_next(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "new", "trial")
    assert code == 0
    assert "decollapse flower up" in out
    assert (tmp_path / "trial" / "trial" / "data.py").exists()


@pytest.mark.parametrize("command", ["new", "up"])
def test_each_command_shows_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"Example: decollapse flower {command}" in out


@pytest.mark.skipif(find_spec("flwr") is None, reason="flwr is not installed")
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_while_it_starts_it_cleans_up_undisturbed_and_without_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: signal.Signals
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.getsignal(asked)
    cleaned: list[bool] = []

    def stop(federation: LocalFederation) -> None:
        signal.raise_signal(asked)  # an impatient person's second Ctrl-C
        cleaned.append(True)

    monkeypatch.setattr(LocalFederation, "start_superlink", lambda federation: signal.raise_signal(asked))
    monkeypatch.setattr(LocalFederation, "stop", stop)
    assert cli.run_command(["flower", "up"]) == 0
    assert cleaned == [True]
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(asked) is before


@pytest.mark.slow
@pytest.mark.skipif(find_spec("flwr") is None, reason="flwr is not installed")
def test_a_local_federation_comes_up_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "decollapse.cli", "flower", "up", "--nodes", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True) as up:
        try:
            assert up.stdout is not None
            said = [up.stdout.readline() for _ in range(5)]
            home = Path(next(line for line in said if "FLWR_HOME=" in line).split()[0].partition("=")[2])
            started = [f"{STARTED_AS}={home.parent / name}" for name in ("superlink", "node-0")]
            assert all(with_environment(entry) for entry in started)
            os.killpg(up.pid, signal.SIGINT)  # as a terminal does
            assert up.wait(timeout=120) == 0
        finally:
            up.kill()
    assert not home.parent.exists()
    assert not any(with_environment(entry) for entry in started)
    assert not list(tmp_path.iterdir())
