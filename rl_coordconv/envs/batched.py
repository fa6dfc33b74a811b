"""
What every C++ Atari backend needs to become a Stable-Baselines3 ``VecEnv``.

A C++ vector environment steps all games at once and returns arrays. :class:`BatchedAtariVecEnv` turns
these into SB3's contract with array arithmetic; Python loops only over environments whose episode has
just ended or begun. A subclass provides the emulators (:meth:`_start`, :meth:`_send`, :meth:`_receive`).
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from rl_coordconv.envs.contract import N_STACK, SCREEN_SIZE, GameOptions


class Batch(NamedTuple):
    """What the emulators report after one step of all ``n`` environments."""

    observations: np.ndarray
    """(n, 4, 84, 84) uint8, newest frame last, owned by the receiver; where a game ended, of the new game."""
    rewards: np.ndarray
    """(n,) raw change of score; integers or floats."""
    terminated: np.ndarray
    """(n,) bool: the game is over."""
    truncated: np.ndarray
    """(n,) bool: the game was cut off at the time limit."""
    lives: np.ndarray
    """(n,) int: lives left; where a game ended, of the new game."""
    last_observations: np.ndarray | None
    """(n, 4, 84, 84) uint8, valid where a game ended: its last observation. ``None`` where none did."""


class CompiledVecEnv(VecEnv):
    """A ``VecEnv`` of C++ objects, without Python environments inside."""

    render_mode = "rgb_array"  # VecEnv's constructor reads it through get_attr

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: C++ objects have no attributes."""
        raise AttributeError(
            f"cannot set '{attr_name}': {type(self).__name__} has no Python environments inside"
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refuse: C++ objects have no methods."""
        raise AttributeError(
            f"cannot call '{method_name}': {type(self).__name__} has no Python environments inside"
        )

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Say that environments have a ``Monitor``: ``info["episode"]`` is what a ``Monitor`` reports."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]


class BatchedAtariVecEnv(CompiledVecEnv):
    """
    SB3 ``VecEnv`` over emulators that are stepped together.

    Does the work of SB3's ``Monitor``, ``EpisodicLifeEnv``, ``ClipRewardEnv`` and ``VecFrameStack`` on
    arrays.

    :param n_envs: Number of environments
    :param n_actions: Number of actions of the game
    :param options: How the game is played; used here are ``clip_reward`` and ``terminal_on_life_loss``
    """

    def __init__(self, n_envs: int, n_actions: int, options: GameOptions) -> None:
        shape = (N_STACK, SCREEN_SIZE, SCREEN_SIZE)
        self.clip_reward = options.clip_reward
        self.terminal_on_life_loss = options.terminal_on_life_loss
        self._waiting = False
        self._owed = False  # whether the emulators may still owe an answer; after Ctrl-C, nobody knows
        self._closed = False
        self._observations = np.zeros((n_envs, *shape), dtype=np.uint8)
        super().__init__(
            n_envs,
            gym.spaces.Box(low=0, high=255, shape=shape, dtype=np.uint8),
            gym.spaces.Discrete(n_actions),
        )
        self._t_start = time.time()
        self.lives: np.ndarray = np.zeros(n_envs, dtype=np.int32)
        self._begin_bookkeeping(self.lives)

    @abstractmethod
    def _start(self, seeds: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
        """
        Start a new game in every environment.

        :param seeds: A seed for each environment, or ``None`` to go on with the present random state
        :return: Observations (n, 4, 84, 84) uint8 and lives (n,) int
        """

    @abstractmethod
    def _replace_emulators(self) -> None:
        """Free the emulators, even with a step under way, and make new ones."""

    @abstractmethod
    def _send(self, actions: np.ndarray) -> None:
        """
        Set the emulators going; must not wait for them.

        :param actions: (n,) int32, each one allowed
        """

    @abstractmethod
    def _receive(self) -> Batch:
        """Wait for the emulators and return what they report."""

    def reset(self) -> np.ndarray:
        """
        Start a new game in every environment.

        :return: Observations (n, 4, 84, 84) uint8
        """
        if self._waiting:  # SB3: a step under way is cancelled
            self.step_wait()
        if self._owed:  # they crash if asked again before they have answered
            self._replace_emulators()
        seeds = None if self._seeds[0] is None else [int(seed) for seed in self._seeds]  # type: ignore[arg-type]
        self._owed = True
        observations, lives = self._start(seeds)
        self._owed = False
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._begin_bookkeeping(lives)
        self._hide_frames_before_start(observations)
        self._observations = observations
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """
        Set the emulators going with these actions; they run while Python does other things.

        :param actions: (n,) integers
        :raises ValueError: An action that the game does not have, or a wrong number of them
        :raises RuntimeError: A step is under way, or was cut short by Ctrl-C
        """
        actions = checked_actions(self, actions)
        if self._owed:
            raise RuntimeError("the last step has not ended: call step_wait(), or after Ctrl-C reset()")
        self._owed = True
        self._send(actions)
        self._waiting = True

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for the emulators.

        :return: Observations (n, 4, 84, 84) uint8, rewards (n,) float32, dones (n,) bool, infos
        """
        assert self._waiting, "call step_async() first"
        # First: Ctrl-C raises as soon as the emulators have answered, and their answer is then gone.
        self._waiting = False
        batch = self._receive()
        self._owed = False
        self._returns += batch.rewards
        self._lengths += 1
        self._frames += 1

        game_over = batch.terminated | batch.truncated
        dones = game_over
        if self.terminal_on_life_loss:
            # Lives may be 0 for some frames before the game is over (Qbert): those belong to the game's end.
            dones = game_over | ((batch.lives > 0) & (batch.lives < self.lives))
        self.lives = batch.lives

        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(dones).tolist():
            self._end_episode(i, batch, bool(game_over[i]), infos[i])
        self._hide_frames_before_start(batch.observations)
        self._observations = batch.observations

        rewards = np.sign(batch.rewards) if self.clip_reward else batch.rewards
        return batch.observations, rewards.astype(np.float32), dones, infos

    def _end_episode(self, i: int, batch: Batch, game_over: bool, info: dict[str, Any]) -> None:
        """Fill the info of environment ``i`` whose episode has ended, and begin the next one."""
        last = batch.last_observations if game_over else batch.observations
        assert last is not None
        info["terminal_observation"] = self._with_hidden_frames(last[i].copy(), self._frames[i])
        info["TimeLimit.truncated"] = bool(batch.truncated[i] and not batch.terminated[i])
        self._frames[i] = 1
        if game_over:
            info["episode"] = {
                "r": round(float(self._returns[i]), 6),
                "l": int(self._lengths[i]),
                "t": round(time.time() - self._t_start, 6),
            }
            self._returns[i] = 0.0
            self._lengths[i] = 0

    def _begin_bookkeeping(self, lives: np.ndarray) -> None:
        """Set the counters of all environments to the start of a game."""
        self.lives = lives
        self._returns: np.ndarray = np.zeros(self.num_envs, dtype=np.float64)
        self._lengths: np.ndarray = np.zeros(self.num_envs, dtype=np.int64)
        self._frames: np.ndarray = np.ones(self.num_envs, dtype=np.int64)  # seen in this episode

    def _hide_frames_before_start(self, observations: np.ndarray) -> None:
        """Empty, in place, the frames of each stack that were seen before the episode began."""
        for i in np.flatnonzero(self._frames < N_STACK).tolist():
            self._with_hidden_frames(observations[i], self._frames[i])

    @staticmethod
    def _with_hidden_frames(stack: np.ndarray, n_frames: int) -> np.ndarray:
        """
        Empty, in place, all but the newest ``n_frames`` of a stack.

        :param stack: (4, 84, 84) uint8, newest frame last
        """
        if n_frames < N_STACK:
            stack[: N_STACK - n_frames] = 0
        return stack

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return the newest frame of each agent, (84, 84, 3) uint8 gray; there is no colour screen."""
        return [np.repeat(stack[-1][:, :, None], 3, axis=2) for stack in self._observations]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of this object, once for each environment: they have none of their own."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def close(self) -> None:
        """Free the emulators, even with a step under way; closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self._free()

    @abstractmethod
    def _free(self) -> None:
        """Free the emulators and their threads."""


def checked_actions(env: VecEnv, actions: np.ndarray) -> np.ndarray:
    """
    Return actions as the emulators take them, ``(n,) int32``.

    :param env: Environments of a game
    :param actions: (n,) or (n, 1) integers
    :raises ValueError: An action that the game does not have, or a wrong number of them
    """
    actions = np.asarray(actions).reshape(-1)
    n_actions = int(env.action_space.n)  # type: ignore[attr-defined]
    fits = actions.shape[0] == env.num_envs and np.issubdtype(actions.dtype, np.integer)
    if not fits or actions.min() < 0 or actions.max() >= n_actions:
        raise ValueError(
            f"actions must be {env.num_envs} integers from 0 to {n_actions - 1}, got {actions.tolist()}"
        )
    return actions.astype(np.int32, copy=False)
