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

from collections.abc import Callable

from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.envs.batched import BatchedAtariVecEnv
from rl_coordconv.envs.contract import MAX_FRAMES, GameOptions, check_integer
from rl_coordconv.envs.envpool import EnvPoolAtariVecEnv
from rl_coordconv.envs.games import canonical_game
from rl_coordconv.envs.gymnasium import make_wrapped_vec_env
from rl_coordconv.envs.halves import HalvedAtariVecEnv
from rl_coordconv.envs.native import NativeAtariVecEnv
from rl_coordconv.errors import UserError, choose

BACKENDS: dict[str, Callable[[str, int, GameOptions], VecEnv]] = {
    "native": NativeAtariVecEnv,
    "gymnasium": make_wrapped_vec_env,
    "envpool": EnvPoolAtariVecEnv,
}
"""Every backend by its name, the default first; each takes a canonical game, ``n_envs`` and options."""

HALVING = tuple(
    name for name, kind in BACKENDS.items() if isinstance(kind, type) and issubclass(kind, BatchedAtariVecEnv)
)
"""Backends that can play in halves: those that step all their emulators at once."""


def make_atari_vec_env(
    game: str,
    n_envs: int = 8,
    *,
    backend: str = "native",
    seed: int | None = 0,
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
    :param halves: Step the environments of ``native`` or ``envpool`` as two halves that take turns
    :return: Observations ``(n_envs, 4, 84, 84)`` uint8, newest frame last; rewards ``(n_envs,)`` float32
    :raises UserError: A value is not allowed, or a package is missing; nothing has been created then
    """
    kind = BACKENDS[choose("backend", backend, BACKENDS)]
    game = canonical_game(game)
    check_integer("n_envs", n_envs, 1)
    if seed is not None:
        check_integer("seed", seed, 0)
    if halves and backend not in HALVING:
        raise UserError(f"halves needs backend {' or '.join(HALVING)}, not {backend}")
    options = GameOptions(
        clip_reward=clip_reward,
        terminal_on_life_loss=terminal_on_life_loss,
        noop_max=noop_max,
        repeat_action_probability=repeat_action_probability,
        max_frames=max_frames,
        num_threads=num_threads,
        vec_env=vec_env,
    )
    sizes = [n_envs - n_envs // 2, n_envs // 2] if halves and n_envs > 1 else [n_envs]
    groups = [kind(game, size, options) for size in sizes]
    env = HalvedAtariVecEnv(groups) if len(groups) > 1 else groups[0]
    env.seed(seed)
    return env
