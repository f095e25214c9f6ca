"""Frozen dataclasses are the schema of a recipe: from nested tables to their instances, and back.

A field's type says what its value in TOML may be. Where the type is a kind of component, one of `catalog.KINDS`, the
value is a name, an import path, or a table with a `name` and the component's own settings. `where` is the dotted key of
what is read; whatever is wrong with it raises `RecipeError`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from decollapse.catalog import KINDS
from decollapse.models import import_object
from decollapse.objective import Term
from decollapse.schedule import Schedule, Scheduled

Table = Mapping[str, Any]


class RecipeError(ValueError):
    """A recipe says something that cannot be run; the message names file, key, value and the nearest right name."""


def build(schema: type, table: Table, where: str, default: Any = None) -> Any:
    """An instance of the dataclass `schema` from the keys of `table`; the rest is as in `default`, if it is one."""
    hints = _field_types(schema)
    for key in table:
        if key not in hints:
            raise RecipeError(f"{_join(where, key)} is no setting of {_title(schema, where)}{nearest(key, hints)}")
    start = default if type(default) is schema else None
    defaults = _defaults(schema) if start is None else {key: getattr(start, key) for key in hints}
    values = {key: read_value(hints[key], value, _join(where, key), defaults.get(key)) for key, value in table.items()}
    for key in hints:
        if key not in values and key not in defaults:
            raise RecipeError(f"{where} needs a value for {key!r}: set {_join(where, key)}.")
    try:
        return schema(**(defaults | values))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where or 'recipe'}: {error}") from None


def read_value(kind: Any, value: Any, where: str, default: Any) -> Any:
    """What a field of type `kind` gets for the TOML value `value`."""
    if kind in KINDS:
        return _component(kind, value, where, default)
    if get_origin(kind) is tuple and get_args(kind)[0] in KINDS:
        item = get_args(kind)[0]
        if item is Term:
            return _objective(value, where)
        if not isinstance(value, list):
            raise RecipeError(f'{where} is a list, such as ["{next(iter(KINDS[item]))}"], got {value!r}.')
        return tuple(_component(item, entry, f"{where}[{index}]", None) for index, entry in enumerate(value))
    optional = [arm for arm in get_args(kind) if dataclasses.is_dataclass(arm)] if isinstance(kind, UnionType) else []
    if optional and value is not None:
        return read_value(optional[0], value, where, default)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, {"name": value} if isinstance(value, str) else as_table(value, where), where, default)
    try:
        # As JSON, because there a list is a tuple, but "5" and true are no numbers.
        return _adapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{where} = {value!r}: {reason[0].lower()}{reason[1:]}.") from None


def _component(kind: Any, value: Any, where: str, default: Any) -> Any:
    """A component from its name, or from a table; without a name, or with the default's, it starts from the default."""
    names = KINDS[kind]
    table = {"name": value} if isinstance(value, str) else dict(as_table(value, where))
    name = table.pop("name", None)
    if name is None and default is not None:
        return build(type(default), table, where, default)
    if not isinstance(name, str):
        raise RecipeError(f'{where} needs a name, such as "{next(iter(names))}"; there is {", ".join(names)}.')
    return build(_component_class(name, names, where), table, where, default)


def _objective(value: Any, where: str) -> tuple[Any, ...]:
    """The terms of an objective, in order; cross-entropy comes first unless it is placed or taken out."""
    if isinstance(value, str):
        raise RecipeError(f"{where} is a table of terms; set {where}.{value}=true to add this one.")
    entries = dict(as_table(value, where))
    if "cross_entropy" not in entries:
        entries = {"cross_entropy": {}} | entries
    return tuple(
        _term(name, settings, _join(where, name)) for name, settings in entries.items() if settings is not False
    )


def _term(name: str, settings: Any, where: str) -> Any:
    """One term, times its schedule if it has one."""
    table = dict(as_table(settings, where))
    schedule = table.pop("schedule", None)
    term = build(_component_class(name, KINDS[Term], where.rpartition(".")[0]), table, where)
    if schedule is None:
        return term
    return Scheduled(term, _component(Schedule, schedule, f"{where}.schedule", None))


def _component_class(name: str, names: Mapping[str, type], where: str) -> type:
    if ":" not in name:
        if name not in names:
            raise RecipeError(f"{where} = {name!r} is not known{nearest(name, names)}")
        return names[name]
    try:
        found = import_object(name)
    except ValueError as error:
        raise RecipeError(f"{where} = {name!r} cannot be imported: {error}") from None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise RecipeError(f"{where} = {name!r} must be a frozen dataclass, got {type(found).__name__}.")
    return found


def unbuild(value: Any, kind: Any) -> Any:
    """The TOML value of a component, a settings record or a plain value."""
    if get_origin(kind) is tuple and get_args(kind)[0] is Term:
        return _unbuild_objective(value)
    if isinstance(value, tuple):
        item = get_args(kind)[0] if get_args(kind) else None
        return [unbuild(entry, item) for entry in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    hints = _field_types(type(value))
    fields = {key: unbuild(getattr(value, key), hints[key]) for key in hints}
    table = {key: field for key, field in fields.items() if field is not None}
    return {"name": _name_of(type(value), kind)} | table if kind in KINDS else table


def _unbuild_objective(terms: Sequence[Any]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for term in terms:
        plain = term.term if isinstance(term, Scheduled) else term
        settings = unbuild(plain, None)
        if isinstance(term, Scheduled):
            settings |= {"schedule": unbuild(term.schedule, Schedule)}
        entries[_name_of(type(plain), Term)] = settings
    return entries if "cross_entropy" in entries else {"cross_entropy": False} | entries


def _name_of(component: type, kind: Any) -> str:
    for name, known in KINDS[kind].items():
        if known is component:
            return name
    return f"{component.__module__}:{component.__qualname__}"


@cache
def _field_types(schema: type) -> dict[str, Any]:
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema) if field.init}


@cache
def _defaults(schema: type) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(schema):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return {key: value for key, value in found.items() if key in _field_types(schema)}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def as_table(value: Any, where: str) -> Table:
    """A table of settings; `true` is the table that changes none."""
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where} is a table of settings, got {value!r}.")
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _title(schema: type, where: str) -> str:
    return {"": "a recipe", "client": "client"}.get(where, f"{where} ({schema.__name__})")


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """The end of a sentence about an unknown name."""
    close = get_close_matches(name, known, n=1)
    there = f"there is {', '.join(known)}." if known else "it has no settings."
    return f"; did you mean {close[0]!r}?" if close else f"; {there}"
