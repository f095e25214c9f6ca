"""What a search varies: settings of a recipe over a range or a list."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decollapse.config import RecipeError, parse_value
from decollapse.study import sweep_values

if TYPE_CHECKING:
    from optuna.trial import Trial

WRITTEN = "such as client.objective.feddecorr.beta=0.001..10:log or client.optimizer.lr=0.01,0.1"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        key: the setting.
        low: the least value.
        high: the greatest, above `low`; whole numbers are drawn where both ends are whole.
        log: whether the logarithm is drawn evenly; needs `low` above 0.
    """

    key: str
    low: int | float
    high: int | float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise RecipeError(f"{self.key}: a range goes from a number to a greater one, got {self.low}..{self.high}.")
        if self.log and self.low <= 0:
            raise RecipeError(f"{self.key}: a range on a log scale begins above 0, got {self.low}..{self.high}.")

    @property
    def ends(self) -> tuple[str, str]:
        """The least and the greatest value, as a recipe writes them."""
        return repr(self.low), repr(self.high)

    def suggest(self, trial: Trial) -> str:
        """The value of a trial, as a recipe writes it."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return repr(int(trial.suggest_int(self.key, self.low, self.high, log=self.log)))
        return repr(float(trial.suggest_float(self.key, self.low, self.high, log=self.log)))


@dataclass(frozen=True)
class Choice:
    """Values without an order between them.

    Attributes:
        key: the setting.
        values: as a recipe writes them.
    """

    key: str
    values: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        """Every value."""
        return self.values

    def suggest(self, trial: Trial) -> str:
        """The value of a trial."""
        return str(trial.suggest_categorical(self.key, self.values))


Varied = Range | Choice


def varied(text: str) -> Varied:
    """Read `key=low..high`, `key=low..high:log` or `key=a,b,c`.

    Raises:
        RecipeError: it is none of these, or the range is empty.

    >>> varied("client.objective.feddecorr.beta=0.001..10:log")
    Range(key='client.objective.feddecorr.beta', low=0.001, high=10, log=True)
    >>> varied("client.optimizer.lr=0.01,0.1")
    Choice(key='client.optimizer.lr', values=('0.01', '0.1'))
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (key and equals and value):
        raise RecipeError(f"--vary is written key=low..high, key=low..high:log or key=a,b,c, {WRITTEN}; got {text!r}.")
    first, dots, rest = value.partition("..")
    last, colon, scale = rest.partition(":")
    low, high = _number(first), _number(last)
    if not dots or (low is None and high is None):
        return Choice(key, tuple(written for _, written in sweep_values(text)))
    if low is None or high is None or (colon and scale.strip() != "log"):
        raise RecipeError(f"{key}: a range is written low..high or low..high:log, {WRITTEN}; got {value!r}.")
    return Range(key, low, high, log=bool(colon))


def _number(text: str) -> int | float | None:
    value = parse_value(text)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
