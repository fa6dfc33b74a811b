"""The ``envpool`` backend: EnvPool's C++ vector environment behind SB3's ``VecEnv``; an optional package."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from rl_coordconv.envs.batched import Batch, BatchedAtariVecEnv
from rl_coordconv.envs.contract import FRAME_SKIP, N_STACK, SCREEN_SIZE, GameOptions
from rl_coordconv.errors import UserError, needs


class EnvPoolAtariVecEnv(BatchedAtariVecEnv):
    """
    EnvPool's Atari games as an SB3 ``VecEnv``.

    EnvPool starts a new game in the step after the end of the last one, and cannot be seeded again. So
    ended games are reset at once here, and a seed builds a new pool.

    :param game: Canonical name of the game
    :param n_envs: Number of environments
    :param options: How it is played; a game starts with fewer than ``noop_max`` frames without action (0 is
        taken for 1) and ends after ``max_frames`` counted in whole steps
    :raises UserError: EnvPool is not installed, or does not have the game
    """

    def __init__(self, game: str, n_envs: int, options: GameOptions) -> None:
        with needs("envpool"):
            import envpool
        tasks = {task.lower(): task for task in envpool.list_all_envs()}
        if f"{game.lower()}-v5" not in tasks:
            raise UserError(f"EnvPool has no game '{game}': use backend native or gymnasium")
        self._task = tasks[f"{game.lower()}-v5"]
        self._make = envpool.make  # render_mode needs EnvPool 1.2
        self._pool_options: dict[str, Any] = {
            "num_envs": n_envs,
            "num_threads": options.num_threads,
            "max_episode_steps": -(-options.max_frames // FRAME_SKIP),
            "img_height": SCREEN_SIZE,
            "img_width": SCREEN_SIZE,
            "stack_num": N_STACK,
            "frame_skip": FRAME_SKIP,
            "noop_max": max(options.noop_max, 1),
            "repeat_action_probability": options.repeat_action_probability,
            "episodic_life": False,
            "reward_clip": False,
            "use_fire_reset": True,
            "render_mode": "rgb_array",
        }
        self._pool = self._make_pool(seed=0)
        super().__init__(n_envs, int(self._pool.action_space.n), options)

    def _make_pool(self, seed: int) -> Any:
        """Return a pool whose environment ``i`` is seeded with ``seed + i``."""
        return self._make(self._task, env_type="gymnasium", seed=seed, **self._pool_options)

    def _start(self, seeds: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
        if seeds is not None:
            self._replace_emulators(seeds[0] % (2**31 - self.num_envs))
        observations, info = self._pool.reset()
        return observations, info["lives"]

    def _replace_emulators(self, seed: int | None = None) -> None:
        old, self._pool = self._pool, self._make_pool(secrets.randbits(30) if seed is None else seed)
        old.close()

    def _send(self, actions: np.ndarray) -> None:
        self._pool.send(actions)

    def _receive(self) -> Batch:
        observations, rewards, terminated, truncated, info = self._pool.recv()
        lives, last_observations = info["lives"], None
        ended = np.flatnonzero(terminated | truncated).astype(np.int32)
        if len(ended):
            last_observations = observations.copy()
            first_observations, first = self._pool.reset(ended)
            observations[first["env_id"]] = first_observations
            lives[first["env_id"]] = first["lives"]
        return Batch(observations, rewards, terminated, truncated, lives, last_observations)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return the colour screen of each game, (210, 160, 3) uint8."""
        return list(self._pool.render(env_ids=np.arange(self.num_envs, dtype=np.int32)))

    def _free(self) -> None:
        self._pool.close()
        del self._pool
