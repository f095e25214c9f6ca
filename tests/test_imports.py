"""Who may import whom, and what `import decollapse` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import decollapse

SRC = Path(decollapse.__file__).parent
# From the ground up; a module may import from its own layer and from those before it.
LAYERS = (
    {"tree", "pictures", "tables", "worker_server", "stopwatch"},
    {"core", "feature_statistics", "spectrum"},
    {"objective", "theory"},
    {"terms", "optim", "data", "models", "buffers", "evaluation", "schedule"},
    {"frozen", "term_states", "sam", "aggregate"},
    {"client", "robust"},
    {"server", "guard", "privacy"},
    {"algorithm"},
    {"algorithms", "engines", "diagnosis"},
    {"server_state", "simulation", "secure", "compression"},
    {"held_out"},
    {"measurements"},
    {"experiment", "checkpoint"},
    {"catalog", "records", "provenance"},
    {"schema"},
    {"config"},
    {"runs", "study", "report", "diagnose", "figures"},
    {"profile", "search"},
    {"terminal"},
    {"flower", "reproduce"},
    {"cli"},
)


def modules() -> list[Path]:
    return [path for path in SRC.rglob("*.py") if path.parent != SRC or path.stem != "__init__"]


def imported(path: Path) -> set[str]:
    """First parts of the modules of this package that a file imports, type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if names == ["decollapse"] and isinstance(node, ast.ImportFrom):
            names = [f"decollapse.{alias.name}" for alias in node.names if alias.name != "__version__"]
        found |= {name.split(".")[1] for name in names if name.startswith("decollapse.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_one_way(path: Path) -> None:
    part = path.relative_to(SRC).parts[0].removesuffix(".py")
    level = next((number for number, layer in enumerate(LAYERS) if part in layer), None)
    assert level is not None, f"{part} has no layer yet: give it one in LAYERS"
    allowed = set().union(*LAYERS[: level + 1])
    assert imported(path) <= allowed


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in output.split()}


@pytest.mark.parametrize("statement", ["import decollapse", "from decollapse import decorrelation_loss, spectrum"])
def test_the_loss_needs_torch_alone(statement: str) -> None:
    before = loaded_by("import torch")
    assert not loaded_by(statement) - before - {"decollapse"}


def test_the_command_line_shows_its_help_without_torch() -> None:
    assert "torch" not in loaded_by("import decollapse.cli")


def test_there_is_one_training_loop() -> None:
    lines = [
        f"{path.relative_to(SRC)}: {line.strip()}"
        for path in modules()
        for line in path.read_text().splitlines()
        if ".backward()" in line
    ]
    assert len(lines) == 1
    assert lines[0].startswith("client.py")


def test_every_public_name_exists() -> None:
    for name in decollapse.__all__:
        assert getattr(decollapse, name) is not None
