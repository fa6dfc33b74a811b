"""A C++ backend's environments in two halves: one can play while the network acts for the other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from rl_coordconv.envs.batched import CompiledVecEnv, checked_actions


class HalvedAtariVecEnv(CompiledVecEnv):
    """
    Several ``VecEnv`` in a row as one: the same environments, seeds and games as undivided.

    Who knows of ``halves`` may step them one by one; for everybody else this is any SB3 ``VecEnv``.

    :param halves: Environments of the same game
    """

    def __init__(self, halves: Sequence[VecEnv]) -> None:
        self.halves = tuple(halves)
        ends = itertools.accumulate((half.num_envs for half in halves), initial=0)
        self.slices = tuple(itertools.starmap(slice, itertools.pairwise(ends)))
        n_envs = sum(half.num_envs for half in halves)
        super().__init__(n_envs, halves[0].observation_space, halves[0].action_space)

    def reset(self) -> np.ndarray:
        """
        Start a new game in every environment.

        :return: Observations (n, 4, 84, 84) uint8
        """
        for half, envs in zip(self.halves, self.slices, strict=True):
            half._seeds = self._seeds[envs]
        observations = np.concatenate([half.reset() for half in self.halves])
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """
        Set the emulators of all halves going.

        :param actions: (n,) integers
        :raises ValueError: An action that the game does not have, or a wrong number of them
        """
        actions = checked_actions(self, actions)
        for half, envs in zip(self.halves, self.slices, strict=True):
            half.step_async(actions[envs])

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for all halves.

        :return: Observations (n, 4, 84, 84) uint8, rewards (n,) float32, dones (n,) bool, infos
        """
        return join([half.step_wait() for half in self.halves])

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return what each environment shows."""
        return [image for half in self.halves for image in half.get_images()]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each environment's half."""
        values = [value for half in self.halves for value in half.get_attr(attr_name)]
        return [values[i] for i in self._get_indices(indices)]

    def close(self) -> None:
        """Free the emulators of all halves."""
        for half in self.halves:
            half.close()


def join(steps: Sequence[VecEnvStepReturn]) -> VecEnvStepReturn:
    """Return the steps of halves as one step of all environments."""
    if len(steps) == 1:
        return steps[0]
    observations, rewards, dones, infos = zip(*steps, strict=True)
    return (
        np.concatenate(observations),
        np.concatenate(rewards),
        np.concatenate(dones),
        list(itertools.chain(*infos)),
    )
