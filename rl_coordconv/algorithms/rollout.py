"""Collecting a rollout: emulators, network and Python at work at the same time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.algorithms.activations import Activations
from rl_coordconv.algorithms.buffer import DeviceRolloutBuffer
from rl_coordconv.algorithms.capture import Captured
from rl_coordconv.algorithms.network import NO_CONTEXT, Network
from rl_coordconv.envs.batched import BatchedAtariVecEnv
from rl_coordconv.envs.halves import HalvedAtariVecEnv, join


class FastRollout(OnPolicyAlgorithm):
    """SB3's rollout, where the network is one of ours; otherwise SB3's own."""

    network: Network | None = None
    activations: Activations | None = None
    """Kept for an update that would compute them once more, if it would."""
    captured_act: Captured
    captured_values: Captured

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """
        Collect a rollout as SB3 does, but show the policy the frames that the buffer has on the device.

        Emulators that run beside Python get their actions before the callbacks are called; where the
        environments are two halves, one half's emulators run while the network acts for the other. Of SB3's
        locals callbacks get all but ``n_steps``, ``obs_tensor``, ``clipped_actions``, ``values`` and
        ``log_probs``, the last two of which are in the buffer.
        """
        if self.network is None or not isinstance(rollout_buffer, DeviceRolloutBuffer):
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        try:
            with self.network.unchanging():
                return self._collect(env, callback, rollout_buffer, n_rollout_steps)
        except BaseException:
            self._last_obs = None  # a step may be under way, so the next learn() starts new games
            raise

    def _collect(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: DeviceRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect a rollout into the device buffer; return whether training goes on."""
        assert isinstance(self.action_space, spaces.Discrete)
        assert isinstance(self._last_obs, np.ndarray)
        assert self._last_episode_starts is not None
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        groups = step_groups(env)
        is_ahead = runs_beside_python(env)
        observations, starts = self._last_obs, self._last_episode_starts
        for group in groups:
            self._act(group, 0, rollout_buffer, observations[group.envs], starts[group.envs])
        for step in range(n_rollout_steps):
            is_last = step + 1 == n_rollout_steps
            answers = []
            for group in groups:
                answers.append(group.env.step_wait())
                following, _, starts, _ = answers[-1]
                assert isinstance(following, np.ndarray)
                # While the network runs for one half, the other half's emulators do; then all, beside Python.
                if is_ahead and not is_last:
                    self._act(group, step + 1, rollout_buffer, following, starts)
            new_obs, rewards, dones, infos = join(answers)
            assert isinstance(new_obs, np.ndarray)
            actions = rollout_buffer.actions[step]
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                self._last_obs, self._last_episode_starts = new_obs, dones
                if is_ahead and not is_last:
                    self._end_step_under_way(env)
                return False
            self._update_info_buffer(infos, dones)
            self._add_value_where_cut_off(rewards, dones, infos)
            rollout_buffer.end_step(rewards)
            self._last_obs, self._last_episode_starts = new_obs, dones
            if not is_ahead and not is_last:
                self._act(groups[0], step + 1, rollout_buffer, new_obs, dones)
        assert isinstance(self._last_obs, np.ndarray)
        last_values = self._values_of(self._last_obs)
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _end_step_under_way(self, env: VecEnv) -> None:
        """Wait for emulators that have their next actions already, where a callback ends the training."""
        last_obs, _, self._last_episode_starts, infos = env.step_wait()
        assert isinstance(last_obs, np.ndarray)
        self._last_obs = last_obs
        self._update_info_buffer(infos, self._last_episode_starts)

    def _add_value_where_cut_off(
        self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """Add to ``rewards``, as SB3 does, what a game was still worth when the time limit ended it."""
        for i in np.flatnonzero(dones):
            if infos[i].get("TimeLimit.truncated", False):
                terminal_observation = infos[i]["terminal_observation"][None]
                rewards[i] += (self.gamma * self._values_of(terminal_observation)).item()

    def _act(
        self,
        group: StepGroup,
        step: int,
        buffer: DeviceRolloutBuffer,
        observations: np.ndarray,
        episode_starts: np.ndarray,
    ) -> None:
        """Choose actions for a group, note them down, and set its emulators going."""
        assert buffer.frames is not None
        buffer.episode_starts[step, group.envs] = episode_starts
        if self.activations is not None:
            self.activations.keep(step, group.envs)
        staged = buffer.frames.stage(step, observations, episode_starts, group.envs)
        packed = to_host(self.captured_act(*staged))
        group.env.step_async(packed[0].astype(np.int64))
        buffer.put_decisions(step, packed[0], packed[1], packed[2], group.envs)

    def _decide(self, *staged: torch.Tensor) -> torch.Tensor:
        """Return actions, values and log-probabilities, ``(3, n)``, for frames that go into the buffer."""
        assert self.network is not None
        assert isinstance(self.rollout_buffer, DeviceRolloutBuffer)
        assert self.rollout_buffer.frames is not None
        return self.network.act(self.rollout_buffer.frames.place(*staged), self.activations or NO_CONTEXT)

    def _values_of(self, observations: np.ndarray) -> torch.Tensor:
        return self.captured_values(torch.as_tensor(observations))


class StepGroup(NamedTuple):
    """Environments that are stepped together, and which of all they are."""

    env: VecEnv
    envs: slice


def step_groups(env: VecEnv) -> list[StepGroup]:
    """Return the groups that can be stepped one by one: two halves, or all environments as one."""
    if isinstance(env, HalvedAtariVecEnv):
        return list(map(StepGroup, env.halves, env.slices))
    return [StepGroup(env, slice(None))]


def runs_beside_python(env: VecEnv) -> bool:
    """Return whether a step is under way after ``step_async()`` while callbacks may use the environments."""
    return isinstance(env, (BatchedAtariVecEnv, HalvedAtariVecEnv))


def to_host(packed: torch.Tensor) -> np.ndarray:
    """Return a tensor's values as soon as the GPU has computed them; nothing else is waited for."""
    if packed.device.type == "cpu":
        return packed.numpy()
    values = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
    values.copy_(packed, non_blocking=True)
    there = torch.cuda.Event()
    there.record(torch.cuda.current_stream(packed.device))
    there.synchronize()
    return values.numpy()
