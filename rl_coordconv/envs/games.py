"""Names of Atari games: what people write, and what ALE calls them."""

from __future__ import annotations

import functools
import re

import ale_py
import gymnasium as gym

from rl_coordconv.errors import UserError, nearest


@functools.cache
def _roms() -> dict[str, str]:
    """Return ``{"MsPacman": "ms_pacman", …}``: every single-player game that ALE registers with Gymnasium."""
    gym.register_envs(ale_py)
    specs = [spec for spec in gym.registry.values() if spec.namespace == "ALE" and spec.version == 5]
    return {spec.name: spec.kwargs["game"] for spec in specs if spec.kwargs.get("obs_type") != "ram"}


def game_names() -> list[str]:
    """Return the canonical names of all games, e.g. ``["Adventure", "AirRaid", …]``."""
    return sorted(_roms())


def canonical_game(name: str) -> str:
    """
    Return the canonical name of a game, e.g. ``Breakout`` or ``MsPacman``.

    Accepts what people write: ``breakout``, ``ALE/Breakout-v5``, ``BreakoutNoFrameskip-v4``,
    ``ms_pacman``, ``Ms. Pac-Man``, ``Q*bert``.

    :param name: Name of the game in any of these forms
    :raises UserError: There is no such game
    """
    bare = str(name).strip().removeprefix("ALE/")
    bare = re.sub(r"-v\d+$", "", bare)
    bare = re.sub(r"(NoFrameskip|Deterministic)$", "", bare)
    wanted = _letters(bare)
    for game in _roms():
        if _letters(game) == wanted:
            return game
    hint = nearest(bare, _roms()) or nearest(wanted, _roms())
    raise UserError(
        f"unknown game '{name}'{hint}: use one of ALE's {len(_roms())} games, e.g. Breakout, MsPacman or Pong"
    )


def rom_name(game: str) -> str:
    """
    Return the name of a game's ROM, e.g. ``ms_pacman``.

    :param game: Name of the game in any form that :func:`canonical_game` accepts
    """
    return _roms()[canonical_game(game)]


def _letters(name: str) -> str:
    """Return only the letters and digits of a name, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
