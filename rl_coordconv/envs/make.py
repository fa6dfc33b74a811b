"""
``make_atari_vec_env``: an Atari game as a Stable-Baselines3 ``VecEnv``, by name and backend.

All backends keep one contract:

- observations are (4, 84, 84) uint8, newest frame last: grayscale, every fourth frame, the maximum of the
  last two; after every ``done``, as after a reset, the stack holds three empty frames and the present one;
- rewards are the sign of the change of score (``clip_reward``);
- a lost life is ``done`` but the game goes on (``terminal_on_life_loss``);
- at the true end of a game, and only there, ``info["episode"]`` holds the raw return ``r``, the length ``l``
  in steps of the full game, and ``t``, seconds since the environment was made;
- at every ``done``, ``info`` holds ``terminal_observation`` and ``TimeLimit.truncated``;
- the same seed and actions give the same trajectory; environment ``i`` is seeded with ``seed + i``;
  ``env.seed(s)`` takes effect at the next ``reset()``, and ``reset()`` always starts new games.

They differ in:

- *After a lost life* SB3's wrappers (``gymnasium``) take steps that the agent does not see: no-op, then
  FIRE and action 2 in games with a FIRE action. The C++ backends leave that to the agent.
- *Start of a game*: ``native`` presses FIRE for one frame and waits up to ``noop_max - 1`` frames;
  ``gymnasium`` waits 1 to ``noop_max`` frames, then FIRE and action 2 for four frames each.
- *Rendering*: ``gymnasium`` and ``envpool`` show the game's colour screen; ``native`` has none to give and
  shows the newest gray frame that the agent sees.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.envs.contract import MAX_FRAMES
from rl_coordconv.envs.envpool import EnvPoolAtariVecEnv
from rl_coordconv.envs.games import canonical_game
from rl_coordconv.envs.gymnasium import VEC_ENVS, make_wrapped_vec_env
from rl_coordconv.envs.halves import HalvedAtariVecEnv
from rl_coordconv.envs.native import NativeAtariVecEnv
from rl_coordconv.errors import UserError, choose

BACKENDS = ("native", "gymnasium", "envpool")
"""Names of the backends; the first is the default."""


def make_atari_vec_env(
    game: str,
    n_envs: int = 8,
    backend: str = "native",
    seed: int | None = 0,
    *,
    clip_reward: bool = True,
    terminal_on_life_loss: bool = True,
    noop_max: int = 30,
    repeat_action_probability: float = 0.0,
    max_frames: int = MAX_FRAMES,
    num_threads: int = 0,
    vec_env: str = "dummy",
    halves: bool = False,
) -> VecEnv:
    """
    Return an Atari game as an SB3 ``VecEnv`` with the contract of this module.

    :param game: Name as people write it: ``breakout``, ``Breakout``, ``ALE/Breakout-v5``, …
    :param n_envs: Number of environments
    :param backend: ``native`` (ale_py in C++), ``gymnasium`` (SB3's wrappers) or ``envpool`` (extra)
    :param seed: Environment ``i`` is seeded with ``seed + i`` at the first reset; ``None`` for a random seed
    :param clip_reward: Return the sign of the reward
    :param terminal_on_life_loss: Report a lost life as the end of an episode; the game goes on
    :param noop_max: Most frames without action at the start of a game
    :param repeat_action_probability: Probability, each frame, that the last action is repeated
    :param max_frames: Emulator frames after which a game is cut off
    :param num_threads: Emulator threads of ``native`` and ``envpool``, of each half; 0 for one per core
    :param vec_env: ``dummy`` or ``subproc``: how ``gymnasium`` runs its environments
    :param halves: Let ``native`` and ``envpool`` step their environments as two halves that take turns
    :raises UserError: A value is not allowed, or a package is missing; nothing has been created then
    """
    choose("backend", backend, BACKENDS)
    choose("vec_env", vec_env, VEC_ENVS)
    game = canonical_game(game)
    _check_integer("n_envs", n_envs, 1)
    _check_integer("noop_max", noop_max, 0)
    _check_integer("max_frames", max_frames, 1)
    _check_integer("num_threads", num_threads, 0)
    if seed is not None:
        _check_integer("seed", seed, 0)
    p = repeat_action_probability
    if isinstance(p, bool) or not isinstance(p, (int, float)) or math.isnan(p) or not 0.0 <= p <= 1.0:
        raise UserError(f"repeat_action_probability must be a number from 0 to 1, got {p!r}")

    options: dict[str, Any] = {
        "clip_reward": clip_reward,
        "terminal_on_life_loss": terminal_on_life_loss,
        "noop_max": noop_max,
        "repeat_action_probability": repeat_action_probability,
        "max_frames": max_frames,
    }
    env: VecEnv
    if backend == "gymnasium":
        env = make_wrapped_vec_env(game, n_envs, vec_env=vec_env, **options)
    else:
        kind = NativeAtariVecEnv if backend == "native" else EnvPoolAtariVecEnv
        sizes = [n_envs - n_envs // 2, n_envs // 2] if halves and n_envs > 1 else [n_envs]
        groups = [kind(game, size, num_threads=num_threads, **options) for size in sizes]
        env = HalvedAtariVecEnv(groups) if len(groups) > 1 else groups[0]
    env.seed(seed)
    return env


def _check_integer(name: str, value: object, at_least: int) -> None:
    """Raise a :class:`UserError` unless ``value`` is an integer of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise UserError(f"{name} must be an integer of at least {at_least}, got {value!r}")
