"""Recipes in words: what differs between them, and what to call each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Recipe = Mapping[str, Any]
Path = tuple[str, ...]
"""Keys from the top of a recipe to one of its values."""

TERMS = {
    "proximal": ("FedProx", "mu"),
    "moon": ("MOON", "mu"),
    "feddyn": ("FedDyn", "alpha"),
    "scaffold": ("SCAFFOLD", ""),
    "restricted_softmax": ("FedRS", "alpha"),
    "logit_calibration": ("FedLC", "tau"),
    "not_true_distillation": ("FedNTD", "beta"),
    "vacant_distillation": ("FedVLS", "strength"),
    "intra_class_decorrelation": ("FedMR", "mu"),
    "relaxed_contrastive": ("FedRCL", "strength"),
    "feddecorr": ("FedDecorr", "beta"),
    "adaptive_feddecorr": ("adaptive FedDecorr", "target"),
    "decov": ("DeCov", "strength"),
    "barlow_twins": ("Barlow Twins", "strength"),
    "koleo": ("KoLeo", "strength"),
}
"""Terms of a client objective: what people call them, and the coefficient they are known by."""

METHODS = ("FedProx", "MOON", "FedDyn", "SCAFFOLD", "FedRS", "FedLC", "FedNTD", "FedVLS", "FedMR", "FedRCL")
"""Terms that give an algorithm its name, in the place of FedAvg."""

SERVERS = {
    "adam": "FedAdam", "yogi": "FedYogi", "adagrad": "FedAdagrad", "fedexp": "FedExP", "fedacg": "FedACG",
    "scaffold": "SCAFFOLD", "feddyn": "FedDyn",
}  # fmt: skip
"""Server optimisers that give an algorithm its name; plain SGD is FedAvg, with momentum FedAvgM."""

PARTS = {
    ("aggregate", "name"): {
        "normalized_mean": "FedNova", "coordinate_median": "coordinate median", "trimmed_mean": "trimmed mean",
        "krum": "Krum", "geometric_median": "geometric median", "norm_clipping": "norm clipping",
    },
    ("client", "optimizer", "name"): {"sam": "FedSAM"},
    ("client", "personal"): {"norm": "FedBN", "head": "FedPer", "all": "clients alone"},
    ("client", "frozen"): {"head": "FedBABU"},
}  # fmt: skip
"""What else gives an algorithm its name: values of other settings, or of entries of lists."""

PHRASES: dict[Path, str] = {
    ("data", "name"): "{}",
    ("data",): "{}",
    ("model", "name"): "{}",
    ("model", "norm"): "{} norm",
    ("partition", "name"): "{}",
    ("partition", "alpha"): "\N{GREEK SMALL LETTER ALPHA} {}",
    ("num_clients",): "{} clients",
    ("cohort_size",): "{} clients a round",
    ("rounds",): "{} rounds",
    ("client", "epochs"): "{} local epochs",
    ("client", "batch_size"): "batch {}",
    ("client", "optimizer", "lr"): "lr {}",
    ("client", "optimizer", "name"): "{}",
    ("server", "momentum"): "server momentum {}",
    ("server", "lr"): "server lr {}",
}
"""How a difference is said; any other is said as `key value`."""

IDENTIFYING: frozenset[Path] = frozenset({("partition", "alpha")})
"""Settings that people say beside the name of their component."""

SPELLINGS = {
    "dirichlet": "Dirichlet", "plain_dirichlet": "plain Dirichlet", "iid": "IID", "mlp": "MLP",
    "small_cnn": "small CNN", "resnet8": "ResNet-8",
    "resnet18": "ResNet-18", "resnet20": "ResNet-20", "resnet32": "ResNet-32", "mobilenetv2": "MobileNetV2",
    "sgd": "SGD", "adam": "Adam",
}  # fmt: skip
"""Names of the catalogue as people write them."""

OBJECTIVE: Path = ("client", "objective")


def flatten(recipe: Recipe, prefix: Path = ()) -> dict[Path, Any]:
    """Every value of a nested recipe under its path; an empty table is a value too.

    >>> flatten({"seed": 0, "client": {"epochs": 5, "objective": {"cross_entropy": {}}}})
    {('seed',): 0, ('client', 'epochs'): 5, ('client', 'objective', 'cross_entropy'): {}}
    """
    flat: dict[Path, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, (*prefix, str(key)))
        else:
            flat[(*prefix, str(key))] = value
    return flat


def differences(recipes: Sequence[Recipe], prefix: Path = ()) -> list[Path]:
    """The paths whose values are not the same in all recipes, in the order of the first that has them.

    A table that only some recipes have counts once, by its own path; inside it, values count where those that have it
    disagree. What a component has because it is another one is told by its name, but for `IDENTIFYING` settings.

    >>> differences([{"a": 1, "b": {"x": 1}}, {"a": 2, "b": {"x": 1}}, {"a": 2, "b": {"x": 1}, "c": {"y": 0}}])
    [('a',), ('c',)]
    """
    found: list[Path] = []
    for key in dict.fromkeys(key for recipe in recipes for key in recipe):
        values = [recipe[key] for recipe in recipes if key in recipe]
        path = (*prefix, str(key))
        tables = [value for value in values if isinstance(value, Mapping)]
        told_inside = len(tables) == len(recipes)
        told_by_name = len({str(recipe.get("name")) for recipe in recipes}) > 1 and path not in IDENTIFYING
        unshared = len(values) < len(recipes) and not told_by_name
        if unshared or (not told_inside and any(value != values[0] for value in values)):
            found.append(path)
        found += differences(tables, path) if tables else []
    return found


def algorithm(recipe: Recipe) -> str:
    """The name of a recipe's algorithm, as people say it. A term with a coefficient of 0 is no part of it.

    >>> algorithm({"client": {"objective": {"cross_entropy": {}, "feddecorr": {"beta": 0.1}}}})
    'FedAvg + FedDecorr 0.1'
    """
    server = _table(recipe, "server")
    base = SERVERS.get(str(server.get("name", "sgd")).lower(), "FedAvgM" if server.get("momentum") else "FedAvg")
    flat = flatten(recipe)
    parts = []
    for path, words in PARTS.items():
        value = flat.get(path)
        parts += [words[entry] for entry in (value if isinstance(value, list | tuple) else [value]) if entry in words]
    for name, settings in active_terms(recipe).items():
        word, coefficient = _word(name)
        value = settings.get(coefficient)
        if name != "cross_entropy":
            parts.append(word if value is None else f"{word} {_say(value)}")
    named = [part for part in parts if part in _names() or part.startswith(METHODS)]
    parts = [*named, *(part for part in parts if part not in named)]
    if not (named and base == "FedAvg") and not any(part.startswith(base) for part in named):
        parts.insert(0, base)
    return " + ".join(parts)


def active_terms(recipe: Recipe) -> dict[str, Mapping[str, Any]]:
    """The terms of a recipe's objective, with their settings; not those whose coefficient is 0.

    >>> active_terms({"client": {"objective": {"cross_entropy": {}, "feddecorr": {"beta": 0}}}})
    {'cross_entropy': {}}
    """
    tables = _table(recipe, *OBJECTIVE).items()
    terms = {
        name: settings if isinstance(settings, Mapping) else {} for name, settings in tables if settings is not False
    }
    return {name: settings for name, settings in terms.items() if settings.get(_word(name)[1]) != 0}


def _word(name: str) -> tuple[str, str]:
    """What people call a term, and the coefficient they know it by; an empty one where they know none."""
    return TERMS.get(name, (name.replace("_", " "), ""))


def _names() -> set[str]:
    return {name for words in PARTS.values() for name in words.values()}


def label(recipe: Recipe, differing: Sequence[Path]) -> str:
    """What to call a recipe beside others it differs from at the paths `differing`.

    The algorithm is named when algorithms differ, or when nothing does.

    >>> label({"client": {"epochs": 5, "objective": {"cross_entropy": {}}}}, [("client", "epochs")])
    '5 local epochs'
    >>> label({"client": {"epochs": 5, "objective": {"cross_entropy": {}}}}, [])
    'FedAvg'
    """
    flat = flatten(recipe)
    words = [algorithm(recipe)] if not differing or any(_is_algorithm(path) for path in differing) else []
    words += [phrase(path, flat[path]) for path in differing if path in flat and not _told_by_name(path)]
    return ", ".join(words)


def _is_algorithm(path: Path) -> bool:
    return path[:2] == OBJECTIVE or path[0] in ("server", "aggregate") or path in PARTS


def _told_by_name(path: Path) -> bool:
    """Whether the name of the algorithm already says a difference at `path`."""
    if path[:2] == OBJECTIVE:
        return len(path) <= 3 or TERMS.get(path[2], ("", ""))[1] == path[3]
    return path == ("server", "name") or path in PARTS


def phrase(path: Path, value: Any) -> str:
    """One value of a recipe in words.

    >>> phrase(("client", "epochs"), 5), phrase(("client", "optimizer", "weight_decay"), 1e-05)
    ('5 local epochs', 'weight decay 1e-05')
    """
    name = path[-1].replace("_", " ")
    default = "{}" if name == "name" else f"{name} {{}}"
    return PHRASES.get(path, default).format(_say(value))


def _table(recipe: Recipe, *keys: str) -> Recipe:
    table: Any = recipe
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table if isinstance(table, Mapping) else {}


def _say(value: Any) -> str:
    """A value as a person writes it: no quotes, no trailing zeros.

    >>> _say(0.10), _say("batch"), _say([1, 2])
    ('0.1', 'batch', '1, 2')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return _say(value.get("name", ""))
    if isinstance(value, list | tuple):
        return ", ".join(_say(item) for item in value)
    return SPELLINGS.get(str(value), str(value))
