"""The default backend: ale_py's C++ vector environment, one thread per core, behind SB3's ``VecEnv``."""

from __future__ import annotations

from functools import partial

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from rl_coordconv.envs.batched import Batch, BatchedAtariVecEnv
from rl_coordconv.envs.contract import FRAME_SKIP, N_STACK, SCREEN_SIZE, GameOptions
from rl_coordconv.envs.games import rom_name


class NativeAtariVecEnv(BatchedAtariVecEnv):
    """
    ale_py's vector environment as an SB3 ``VecEnv``.

    ale_py's own ``episodic_life`` is not used: it restarts the whole game at every lost life. Here the
    emulator knows only games, and lost lives are read off the number of lives.

    :param game: Name of the game
    :param n_envs: Number of environments
    :param options: How it is played; a game starts with fewer than ``noop_max`` frames without action
    """

    def __init__(self, game: str, n_envs: int, options: GameOptions) -> None:
        self._make_emulators = partial(
            AtariVectorEnv,
            rom_name(game),
            n_envs,
            num_threads=options.num_threads,
            max_num_frames_per_episode=options.max_frames,
            repeat_action_probability=options.repeat_action_probability,
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=SCREEN_SIZE,
            img_width=SCREEN_SIZE,
            stack_num=N_STACK,
            frameskip=FRAME_SKIP,
            noop_max=options.noop_max,
            reward_clipping=False,
        )
        self._emulators = self._make_emulators()
        n_actions = len(self._emulators.ale.get_action_set())
        super().__init__(n_envs, n_actions, options)

    def _start(self, seeds: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
        # The emulator takes 31 bits, and reads a negative seed as "none".
        seed = None if seeds is None else np.asarray(seeds, dtype=np.int64) % 2**31
        observations, info = self._emulators.reset(seed=seed)
        return observations, info["lives"]

    def _replace_emulators(self) -> None:
        self._emulators = self._make_emulators()  # the old ones' destructor waits for their step

    def _send(self, actions: np.ndarray) -> None:
        self._emulators.send(actions)

    def _receive(self) -> Batch:
        observations, rewards, terminated, truncated, info = self._emulators.recv()
        return Batch(observations, rewards, terminated, truncated, info["lives"], info.get("final_obs"))

    def _free(self) -> None:
        del self._emulators  # its destructor joins the threads
