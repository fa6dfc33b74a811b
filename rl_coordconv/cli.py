"""Command lines of the scripts: jsonargparse with one-line errors, the nearest accepted name, and dashes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser

from rl_coordconv.errors import UserError, nearest
from rl_coordconv.options import check_values, read_yaml

T = TypeVar("T")


class OneLineParser(ArgumentParser):
    """A jsonargparse parser whose errors are one line with the nearest accepted name."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """
        Turn a parse error into a :class:`UserError`.

        :param message: jsonargparse's message
        :param ex: The exception behind it
        """
        raise UserError(self._one_line(message))

    def instantiate(self, *args: Any, **kwargs: Any) -> Any:
        """
        Make the objects; jsonargparse lets some values through that then do not make one.

        :raises UserError: The values do not make an object
        """
        try:
            return super().instantiate(*args, **kwargs)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise UserError(f"the options do not fit together: {error}") from None

    def _one_line(self, message: str) -> str:
        text = " ".join(message.split())
        required = re.search(r"arguments are required: (.*)$", text)
        stray = re.search(r"arguments: ([^-\s]\S*)", text, re.IGNORECASE)
        has_config = any("--config" in action.option_strings for action in self._actions)
        if required and has_config:
            return f"{required[1]} is missing: give --{required[1]}, or --config with a file that says it"
        if stray and not required:
            hint = f": did you mean --config {stray[1]}?" if has_config else ": options begin with --"
            return f"'{stray[1]}' is no option{hint}"
        unknown = re.search(r"option '([\w.-]+)'|arguments: --([\w.-]+)", text, re.IGNORECASE)
        wrong_value = re.search(r'key "([\w.]+)": Expected an? (.*)\. Got value: (.*)$', text)
        union = re.search(
            r'key "([\w.]+)": Does not validate.*Subtypes: \[(.*?)\] .*Given value: (.*)$', text
        )
        if union:
            kinds = re.findall(r"<class '\w+'>|[\w.]+\[.*?\]|[\w.]+", union[2])
            types = " or ".join(_readable(kind) for kind in kinds).replace("NoneType", "null")
            choices = [choice for kind in kinds for choice in _choices(kind)]
            return f"{union[1]} is {union[3]}: it must be {types}{nearest(union[3], choices)}"
        if unknown:
            group = re.search(r"Group '(\w+)'", text)
            return self._unknown_option(f"{group[1]}." if group else "", unknown[1] or unknown[2])
        if wrong_value:
            key, expected, got = wrong_value.groups()
            return f"{key} is {got}: it must be {_readable(expected)}{nearest(got, _choices(expected))}"
        return text

    def _unknown_option(self, group: str, key: str) -> str:
        key = group + key
        if key.partition(".")[0] in ("games", "arms", "seeds", "common"):
            return f"unknown option '{key}': it belongs into a comparison, for scripts/compare.py --config"
        group = key.partition(".")[0] + "." if "." in key else ""
        options = [action.dest for action in self._actions if action.dest.startswith(group)]
        return f"unknown option '{key}'{nearest(key, options)}: --help lists all options"

    def parse_dashed(self, args: Sequence[str], config_class: Any) -> Any:
        """
        Parse and instantiate.

        ``--n-envs`` and ``--n_envs`` are the same, ``--trust`` is ``--trust true``, ``--seeds 1 2`` a list.

        :param args: Command-line arguments
        :param config_class: The dataclass behind the options
        :raises UserError: They do not fit
        """
        flags = {
            f"--{entry.name}"
            for entry in dataclasses.fields(config_class)
            if str(entry.type) in ("bool", "bool | None")
        }
        args = [underscored(arg) for arg in args]
        for entry in dataclasses.fields(config_class):
            if str(entry.type).startswith(("list[", "tuple[")):
                numbers = re.search(r"\b(int|float)\b", str(entry.type))
                args = gather_list(args, f"--{entry.name}", text=not numbers)
        followers = [*args, "--"][1:]
        args = [
            f"{arg}=true" if arg in flags and follower.lower() not in ("true", "false", "null") else arg
            for arg, follower in zip(args, followers, strict=True)
        ]
        options = dict(itertools.pairwise(args)) | dict(arg.split("=", 1) for arg in args if "=" in arg)
        file = options.get("--config")
        if file:
            read_yaml(file)
        try:
            return self.instantiate(self.parse_args(args))
        except UserError as error:
            named = [key for key in re.findall(r"[\w.]+", str(error)) if f"--{key}" in " ".join(args)]
            raise UserError(f"{error} (in {file})" if file and not named else str(error)) from None


def _choices(expected: str) -> list[str]:
    return re.findall(r"'([^']+)'", expected) if "Literal[" in expected else []


def _readable(expected: str) -> str:
    """Say a type as people do: ``Literal['ppo', 'a2c']`` is one of ppo, a2c."""
    if choices := _choices(expected):
        return f"one of {', '.join(choices)}"
    return re.sub(r"<class '(\w+)'>", r"\1", expected)


def underscored(arg: str) -> str:
    """Return a command-line argument with the dashes inside of an option's name as underscores."""
    name, equals, value = arg.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if arg.startswith("--") else arg


def parse_dataclass(config_class: type[T], args: Sequence[str], prog: str) -> T:
    """
    Build a script's config from its command line; fields without a default are positional.

    :param config_class: A dataclass whose docstring describes its fields
    :param args: Command-line arguments
    :param prog: The script's name, for ``--help``
    :raises UserError: The arguments do not fit, or a number is out of range
    """
    parser = OneLineParser(prog=prog, allow_abbrev=False)
    parser.add_class_arguments(config_class, as_positional=True)
    values = parser.parse_dashed(args, config_class)
    config = config_class(**{name: value for name, value in vars(values).items() if name != "print_config"})
    check_values(config)
    return config


def gather_list(args: Sequence[str], option: str, text: bool = False) -> list[str]:
    """
    Return arguments with ``--seeds 1 2 3`` as ``--seeds=[1,2,3]``, the form that jsonargparse reads.

    :param args: Command-line arguments
    :param option: Takes a list; given again, words are added to it, and ``[1,2]`` replaces it
    :param text: Whether the words are text, whatever YAML would make of a comma or a colon in them
    :raises UserError: It is given without a value
    """
    words: list[str] = []
    others: list[str] = []
    rest, place, whole = [*args], -1, ""
    while rest:
        name, equals, value = (arg := rest.pop(0)).partition("=")
        if name != option:
            others.append(arg)
            continue
        here = [value] if equals else list(itertools.takewhile(_is_word, rest))
        if not here:
            raise UserError(f"{option[2:]} has no value: give one or more")
        if not equals:
            del rest[: len(here)]
        place = len(others) if place < 0 else place
        is_whole = len(here) == 1 and (here[0].startswith("[") or here[0] == "null")
        whole, words = (here[0], []) if is_whole else ("", words + here)
    if place >= 0:
        listed = [json.dumps(word, ensure_ascii=False) for word in words] if text else words
        others.insert(place, f"{option}={whole or '[' + ','.join(listed) + ']'}")
    return others


def _is_word(arg: str) -> bool:
    return arg != "-h" and not arg.startswith("--")
