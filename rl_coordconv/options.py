"""Options of a dataclass as plain values: read from YAML, and each checked against its annotation."""

from __future__ import annotations

import dataclasses
import json
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from rl_coordconv.errors import UserError, nearest

T = TypeVar("T")
MAY_BE_ZERO = {
    *("seed", "num_threads", "eval_freq", "retries"),
    *("ent_coef", "vf_coef", "gamma", "gae_lambda", "weight_decay"),
}
AT_MOST_ONE = {"gamma", "gae_lambda"}


MOST_VALUES = 100_000
"""In a YAML file, aliases written out: ten lines of aliases of aliases could fill any memory."""


class _PlainLoader(yaml.SafeLoader):
    """A safe loader that refuses merges, and keys given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        wrong = ["'<<' is not read, write the options out"] if "<<" in keys else []
        wrong += [f"'{key}' is given twice" for key in repeated(keys)]
        if wrong:
            raise yaml.constructor.ConstructorError(None, None, wrong[0], node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """
    Read a YAML file of ``option: value`` lines.

    :param path: The file
    :raises UserError: It is missing or holds something else
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"config '{path}' is a folder: give a YAML file")
    if not path.is_file():
        raise UserError(f"config file '{path}' does not exist")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)  # a SafeLoader
        if _written_out(values, {}) > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values, with aliases written out")
        json.dumps(values, default=str)  # refuses a date as a key
    # Among others a date that is none, or one as a key.
    except (yaml.YAMLError, TypeError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"config file '{path}' is not YAML: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"config file '{path}' must hold 'option: value' lines")
    return values


def _written_out(value: Any, known: dict[int, float]) -> float:
    """Return how many values there are with aliases written out; of what contains itself, no end of them."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(value)]


def fill(section: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """
    Make a dataclass from plain values; what is missing takes its default.

    :param section: The dataclass
    :param values: As in a YAML file
    :param prefix: Put before the names in messages, e.g. ``ppo.``
    :raises UserError: A name is unknown or missing, or a value not of its annotation's type
    """
    hints = get_type_hints(section)
    fields = {entry.name: entry for entry in dataclasses.fields(section)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            names = [prefix + field for field in fields]
            raise UserError(f"unknown option '{prefix}{name}'{nearest(f'{prefix}{name}', names)}")
    for name, entry in fields.items():
        if name not in values and entry.default is entry.default_factory is dataclasses.MISSING:
            raise UserError(f"'{prefix}{name}' is missing: give it a value")
    return section(**{name: _fit(value, hints[name], prefix + name) for name, value in values.items()})


def _fit(value: Any, hint: Any, name: str) -> Any:
    """Return a value as its annotation has it, e.g. a whole number as a float."""
    kinds = _kinds(hint)
    for kind in kinds:
        if _is(value, kind):
            return float(value) if kind is float else value
    readable = " or ".join(_readable(kind) for kind in kinds)
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    raise UserError(f"{name} is {value}: it must be {readable}{nearest(value, choices)}")


def check_values(section: Any, prefix: str = "", bounded: bool = True) -> None:
    """
    Refuse what no run could use: ``null`` for a value, numbers that are negative, zero or not finite.

    :param section: A dataclass
    :param prefix: Put before the names in messages
    :param bounded: Whether its fields are this package's, of which is known that they are no less than 0
    :raises UserError: A field has such a value
    """
    for entry in dataclasses.fields(section):
        value, name = getattr(section, entry.name), prefix + entry.name
        if value is None and "None" not in str(entry.type) and "Any" not in str(entry.type):
            raise UserError(f"{name} is null: leave it out, or give a value")
        if not bounded or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        lowest = "0 or more" if entry.name in MAY_BE_ZERO else "more than 0"
        if not 0 <= value < float("inf") or (value == 0 and entry.name not in MAY_BE_ZERO):
            raise UserError(f"{name} is {value}: it must be {lowest}")
        if entry.name in AT_MOST_ONE and value > 1:
            raise UserError(f"{name} is {value}: it must be between 0 and 1")
        if isinstance(value, int) and value >= 2**31:  # what the emulators' numbers hold
            raise UserError(f"{name} is {value}: it must be below 2**31")


def repeated(items: Sequence[T]) -> list[T]:
    """Return those of some items that are given more than once."""
    return [item for item in items if items.count(item) > 1]


def check_folder_name(what: str, name: str) -> None:
    """
    Refuse what would not be the name of one folder.

    :param what: What has this name, for the message
    :param name: The name
    :raises UserError: It is a path, has letters that a shell minds, or would be no text in a YAML file
    """
    if _is_number(name) or name.lower() in ("null", "true", "false"):
        raise UserError(f"{what} '{name}' would be read as a value: put letters before it, e.g. 'run-{name}'")
    if not re.fullmatch(r"[\w.+-]{1,100}", name) or set(name) <= {"."}:
        raise UserError(f"{what} '{name}' must be a folder name: at most 100 letters, digits and . _ + -")


def check_output(output: str) -> None:
    """
    Refuse an output folder without a name, which would be the working directory.

    :param output: Folder for runs or experiments
    :raises UserError: It is empty
    """
    if not output:
        raise UserError("output is empty: give a folder, e.g. runs")


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of an annotation's type."""
    return any(_is(value, kind) for kind in _kinds(hint))


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(_is(item, get_args(kind)[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if kind is float:
        return _is_number(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    """Whether it is a number or reads as one; YAML 1.1 takes ``1e-4`` for text, people do not."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True


def _readable(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if kind is type(None):
        return "null"
    return getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)
