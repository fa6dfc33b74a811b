"""The default backend: ale_py's C++ vector environment, one thread per core, behind SB3's ``VecEnv``."""

from __future__ import annotations

from functools import partial

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from rl_coordconv.envs.batched import Batch, BatchedAtariVecEnv
from rl_coordconv.envs.contract import FRAME_SKIP, N_STACK, SCREEN_SIZE
from rl_coordconv.envs.games import rom_name


class NativeAtariVecEnv(BatchedAtariVecEnv):
    """
    ale_py's vector environment as an SB3 ``VecEnv``.

    ale_py's own ``episodic_life`` is not used: it restarts the whole game at every lost life. Here the
    emulator knows only games, and lost lives are read off the number of lives.

    :param game: Name of the game
    :param n_envs: Number of environments
    :param clip_reward: Return the sign of the reward
    :param terminal_on_life_loss: Report a lost life as the end of an episode; the game goes on
    :param noop_max: A game starts with fewer than this many frames without action
    :param repeat_action_probability: Probability, each frame, that the last action is repeated
    :param max_frames: Emulator frames after which a game is cut off
    :param num_threads: Threads of the emulators; 0 for one per core
    """

    def __init__(
        self,
        game: str,
        n_envs: int,
        *,
        clip_reward: bool,
        terminal_on_life_loss: bool,
        noop_max: int,
        repeat_action_probability: float,
        max_frames: int,
        num_threads: int,
    ) -> None:
        self._make_emulators = partial(
            AtariVectorEnv,
            rom_name(game),
            n_envs,
            num_threads=num_threads,
            max_num_frames_per_episode=max_frames,
            repeat_action_probability=repeat_action_probability,
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=SCREEN_SIZE,
            img_width=SCREEN_SIZE,
            stack_num=N_STACK,
            frameskip=FRAME_SKIP,
            noop_max=noop_max,
            reward_clipping=False,
        )
        self._emulators = self._make_emulators()
        n_actions = len(self._emulators.ale.get_action_set())
        super().__init__(n_envs, n_actions, clip_reward, terminal_on_life_loss)

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
