"""The reference backend: Gymnasium's ALE games in SB3's own ``AtariWrapper`` stack, a Python object each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat

import ale_py
import gymnasium as gym
import numpy as np
from stable_baselines3.common.atari_wrappers import AtariWrapper, EpisodicLifeEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecTransposeImage,
)

from rl_coordconv.envs.contract import FRAME_SKIP, N_STACK, SCREEN_SIZE, GameOptions
from rl_coordconv.envs.state import capture_emulator, capture_layer, restore_emulator, restore_layer
from rl_coordconv.errors import needs


class WholeGames(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """
    Outermost wrapper: makes what SB3's stack reports about games mean the same as in the other backends.

    SB3 puts its ``Monitor`` next to the emulator, where a length counts emulator frames: the length is
    replaced by the number of the agent's steps. And SB3's ``EpisodicLifeEnv`` ignores a reset in the
    middle of a game: one with a ``seed`` argument, which is how ``VecEnv.reset()`` (but no automatic
    reset) calls it, is made to start a new game.

    :param env: Environment in SB3's wrappers
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        layers: list[gym.Env] = [env]
        while isinstance(layers[-1], gym.Wrapper):
            layers.append(layers[-1].env)
        self._layers = layers
        self._monitor = next(layer for layer in layers if isinstance(layer, Monitor))
        self._episodic_life = next((layer for layer in layers if isinstance(layer, EpisodicLifeEnv)), None)
        self._steps = 0
        self._games = 0

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset; a ``seed`` argument, even ``None``, asks for a new game."""
        if "seed" in kwargs:
            self._steps = 0
            if self._episodic_life is not None:
                self._episodic_life.was_real_done = True
        observation, info = self.env.reset(**kwargs)
        # A game can end in the hidden steps that SB3's wrappers take after a lost life; SB3 drops its record.
        games = len(self._monitor.get_episode_lengths())
        if games != self._games:
            self._games, self._steps = games, 0
        return observation, info

    def step(self, action: int) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and count it; a float32 reward, because ``SubprocVecEnv`` keeps the type it gets."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        if "episode" in info:
            info["episode"]["l"] = self._steps
        return observation, np.float32(reward), terminated, truncated, info

    def capture_state(self) -> dict[str, Any]:
        """Return the state of the running game, as plain values and tensors."""
        layers = [capture_layer(layer) for layer in self._layers]
        return {"steps": self._steps, "layers": layers, **capture_emulator(self.unwrapped)}

    def restore_state(self, state: dict[str, Any]) -> None:
        """Go on with the game that :meth:`capture_state` found; this environment has been reset before."""
        for layer, values in zip(self._layers, state["layers"], strict=True):
            restore_layer(layer, values)
        restore_emulator(self.unwrapped, state)
        self._steps, self._games = state["steps"], len(self._monitor.get_episode_lengths())


def make_wrapped_vec_env(game: str, n_envs: int, options: GameOptions) -> VecEnv:
    """
    Return SB3's Atari stack with frames stacked and channels first.

    :param game: Canonical name of the game
    :param n_envs: Number of environments
    :param options: How it is played; ``num_threads`` has no meaning here
    :raises UserError: OpenCV, which SB3's wrappers need, is not installed
    """
    with needs("train"):
        import cv2  # noqa: F401

    def make() -> gym.Env:
        gym.register_envs(ale_py)  # a subprocess begins without it
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for every environment
        env: gym.Env = gym.make(
            f"ALE/{game}-v5",
            frameskip=1,  # AtariWrapper skips
            repeat_action_probability=options.repeat_action_probability,
            max_num_frames_per_episode=options.max_frames,
            render_mode="rgb_array",
        )
        env = AtariWrapper(
            Monitor(env),
            noop_max=options.noop_max,
            frame_skip=FRAME_SKIP,
            screen_size=SCREEN_SIZE,
            terminal_on_life_loss=options.terminal_on_life_loss,
            clip_reward=options.clip_reward,
        )
        return WholeGames(env)

    makers: list[Callable[[], gym.Env]] = [make for _ in range(n_envs)]
    venv: VecEnv = SubprocVecEnv(makers) if options.vec_env == "subproc" else DummyVecEnv(makers)
    return VecTransposeImage(VecFrameStack(venv, N_STACK, channels_order="last"))
