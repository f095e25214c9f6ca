"""The command line: results on stdout, progress on stderr, one sentence for a mistake.

Commands import what they need when they run, so that `decollapse --help` does not wait for PyTorch.
"""

from __future__ import annotations

import sys

from cyclopts import App
from rich.console import Console
from rich.text import Text

from decollapse import __version__
from decollapse.cli import explaining, federating, reproducing, results, searching, training
from decollapse.cli.training import DEMO as DEMO  # its recipe is checked with those of the documentation

app = App(
    name="decollapse",
    version=__version__,
    help="Find, explain and repair dimensional collapse in federated learning.",
    suppress_keyboard_interrupt=False,  # a stopped run tells how to go on
    error_console=Console(stderr=True, soft_wrap=True, highlight=False),
    error_formatter=lambda error: Text(f"decollapse: {error}"),
)
for command in (
    *(training.run, training.resume, training.demo),
    *(results.compare, results.report),
    *(explaining.diagnose, explaining.theory, explaining.figures),
    reproducing.reproduce,
    searching.search,
):
    app.command(command)
app.command(results.list_components, name="list")
app.command(federating.flower)


def main() -> None:
    """The program `decollapse`."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line; a person's mistake is one sentence on stderr and exit code 2."""
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"], result_action="return_value")
    except SystemExit as end:
        return int(end.code or 0)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Go on with `decollapse resume` and the folder of the run.\n")
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if debug:
            raise
        sys.stderr.write(f"decollapse: {error}\n")
        return 2
    return 0
