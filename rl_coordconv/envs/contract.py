"""What every backend keeps: DeepMind's preprocessing (Mnih et al., Nature 2015), and a game's options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

from rl_coordconv.errors import UserError, choose

N_STACK = 4
"""Frames that the agent sees at once."""

SCREEN_SIZE = 84
"""Height and width in pixels of the grayscale frames."""

FRAME_SKIP = 4
"""Emulator frames per step; the last two are max-pooled."""

MAX_FRAMES = 108_000
"""Emulator frames after which a game is cut off: 30 minutes of play."""

VEC_ENVS = ("dummy", "subproc")
"""How ``gymnasium`` runs its environments: one after the other in this process, or a process each."""


@dataclass(frozen=True)
class GameOptions:
    """
    How a game is played: what :func:`~.make.make_atari_vec_env` hands to a backend.

    :param clip_reward: Return the sign of the reward
    :param terminal_on_life_loss: Report a lost life as the end of an episode; the game goes on
    :param noop_max: Most frames without action at the start of a game
    :param repeat_action_probability: Probability, each frame, that the last action is repeated
    :param max_frames: Emulator frames after which a game is cut off
    :param num_threads: Threads of C++ emulators; 0 for one per core
    :param vec_env: ``dummy`` or ``subproc``: how Python environments run
    :raises UserError: A value is not allowed
    """

    clip_reward: bool
    terminal_on_life_loss: bool
    noop_max: int
    repeat_action_probability: float
    max_frames: int
    num_threads: int
    vec_env: str

    def __post_init__(self) -> None:
        choose("vec_env", self.vec_env, VEC_ENVS)
        check_integer("noop_max", self.noop_max, 0)
        check_integer("max_frames", self.max_frames, 1)
        check_integer("num_threads", self.num_threads, 0)
        p = self.repeat_action_probability
        if isinstance(p, bool) or not isinstance(p, (int, float)) or math.isnan(p) or not 0.0 <= p <= 1.0:
            raise UserError(f"repeat_action_probability must be a number from 0 to 1, got {p!r}")


def check_integer(name: str, value: object, at_least: int) -> None:
    """Raise a :class:`UserError` unless ``value`` is an integer of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise UserError(f"{name} must be an integer of at least {at_least}, got {value!r}")
