"""A rollout buffer that keeps every frame once, as uint8, on the device that trains."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

ALL = slice(None)


class DeviceRolloutBuffer(RolloutBuffer):
    """
    SB3's ``RolloutBuffer`` for stacked frames: the same samples from a quarter of the memory.

    Two neighbouring observations share all frames but one, so a rollout of ``T`` steps is ``T + stack - 1``
    frames per environment. The stacks are rebuilt when they are sampled, in the ``channels_last`` format;
    frames from before an episode's start are zero, as ``VecFrameStack`` (and this package's environments)
    have them. Observations never go back to the host.

    :param buffer_size: Steps per environment
    :param observation_space: uint8 frames, stacked along the first axis
    :param action_space: As for SB3's buffer, and all further arguments
    :raises ValueError: The observations are not stacks of uint8 frames
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
    ) -> None:
        shape = observation_space.shape or ()
        if observation_space.dtype != np.uint8 or len(shape) != 3:
            raise ValueError(f"observations must be stacked uint8 frames (stack, height, width), got {shape}")
        self._frames = torch.empty(0)
        self._checked = False
        self._previous = np.empty((n_envs, *shape), dtype=np.uint8)
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def reset(self) -> None:
        """Empty the buffer; its memory is kept."""
        self.observations = np.empty((0,), dtype=np.uint8)  # SB3's name; the frames are in self._frames
        stack, height, width = self.obs_shape
        if not len(self._frames):
            # One row more, always zero: what a stack shows of the time before its episode.
            rows = (self.buffer_size + stack - 1) * self.n_envs + 1
            self._frames = torch.zeros((rows, height * width), dtype=torch.uint8, device=self.device)
            self._pinned = torch.empty((self.n_envs, height * width), dtype=torch.uint8)
            if self.device.type == "cuda":
                self._pinned = self._pinned.pin_memory()
        shape = (self.buffer_size, self.n_envs)
        self.actions = np.zeros((*shape, self.action_dim), dtype=self.action_space.dtype)
        for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
            setattr(self, name, np.zeros(shape, dtype=np.float32))
        self._rows = np.zeros((*shape, stack), dtype=np.int64)
        self.generator_ready = False
        self.pos, self.full = 0, False

    def put_frames(
        self, step: int, observations: np.ndarray, episode_starts: np.ndarray, envs: slice = ALL
    ) -> torch.Tensor:
        """
        Send what is new in an observation to the device, and return the observation from there.

        :param step: Which step of the rollout, from 0
        :param observations: (n, stack, height, width) uint8, newest frame last
        :param episode_starts: (n,) bool: where this is the first observation of an episode
        :param envs: Which environments these are
        :return: The same on the device, ``channels_last``
        """
        stack = self.obs_shape[0]
        if not self._checked:
            self._check(step, observations, episode_starts, envs)
        frames = self._frames[:-1].view(-1, self.n_envs, self._frames.shape[1])
        if step == 0:
            size = (stack - 1, len(observations), frames.shape[2])
            old = torch.as_tensor(observations[:, :-1].swapaxes(0, 1).reshape(size))
            frames[: stack - 1, envs] = old.to(self.device)
        self._pinned.numpy()[envs] = observations[:, -1].reshape(len(observations), -1)
        frames[step + stack - 1, envs].copy_(self._pinned[envs], non_blocking=True)
        self.episode_starts[step, envs] = episode_starts
        self._rows[step, envs] = self._rows_of_step(step, envs)
        if self.device.type == "cpu":
            return torch.from_numpy(observations).contiguous(memory_format=torch.channels_last)
        return self._stacks(torch.from_numpy(self._rows[step, envs]))

    def _rows_of_step(self, step: int, envs: slice) -> np.ndarray:
        """Return, (n, stack) int64, the rows of ``_frames`` that make up the observations of a step."""
        stack = self.obs_shape[0]
        rows = (step + np.arange(stack)) * self.n_envs + np.arange(self.n_envs)[envs, None]
        for back in range(min(stack - 1, step + 1)):
            started = self.episode_starts[step - back, envs] > 0
            rows[started, : stack - 1 - back] = len(self._frames) - 1
        return rows

    def _stacks(self, rows: torch.Tensor) -> torch.Tensor:
        """
        Put frames together.

        :param rows: (batch, stack) int64
        :return: (batch, stack, height, width) uint8, ``channels_last``
        """
        columns = rows.to(self.device, non_blocking=True).unbind(1)
        stacks = torch.stack([self._frames.index_select(0, column) for column in columns], dim=-1)
        _, height, width = self.obs_shape
        return stacks.view(len(rows), height, width, len(columns)).permute(0, 3, 1, 2)

    def _check(self, step: int, observations: np.ndarray, episode_starts: np.ndarray, envs: slice) -> None:
        """Make sure, during the first rollout, that the observations are what this buffer takes them for."""
        started = np.asarray(episode_starts, dtype=bool)
        if step:
            expected = self._previous[envs, 1:].copy()
            expected[started] = 0
            if not np.array_equal(observations[:, :-1], expected):
                raise ValueError(
                    "these environments do not stack single frames (newest last, zeros before an episode's "
                    "start), so the device buffer cannot rebuild their observations: use buffer='host'"
                )
        self._previous[envs] = observations

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: torch.Tensor,
        log_prob: torch.Tensor,
    ) -> None:
        """Store one step of all environments, as SB3's buffer does."""
        self.put_frames(self.pos, obs, episode_start)
        self.put_decisions(self.pos, action, value.detach().cpu().numpy(), log_prob.detach().cpu().numpy())
        self.end_step(reward)

    def put_decisions(
        self, step: int, action: np.ndarray, value: np.ndarray, log_prob: np.ndarray, envs: slice = ALL
    ) -> None:
        """
        Store what the policy answered to an observation.

        :param step: Which step of the rollout, from 0
        :param action: (n,) or (n, 1)
        :param value: (n,) or (n, 1)
        :param log_prob: (n,)
        :param envs: Which environments these are
        """
        self.actions[step, envs] = action.reshape(-1, self.action_dim)
        self.values[step, envs] = value.reshape(-1)
        self.log_probs[step, envs] = log_prob.reshape(-1)

    def end_step(self, reward: np.ndarray) -> None:
        """Store the rewards of all environments, ``(n_envs,)``, and go on to the next step."""
        self.rewards[self.pos] = reward
        self.pos += 1
        self.full = self.pos == self.buffer_size
        self._checked = self._checked or self.full

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """
        Yield minibatches in the order in which SB3's buffer would, given the same NumPy random state.

        :param batch_size: Samples per minibatch; ``None`` for all at once
        """
        assert self.full, "the rollout is not complete"
        total = self.buffer_size * self.n_envs
        indices = torch.from_numpy(np.random.permutation(total))
        rows = torch.from_numpy(self.swap_and_flatten(self._rows))
        names = ("values", "log_probs", "advantages", "returns")
        columns = [self.swap_and_flatten(getattr(self, name)).reshape(-1) for name in names]
        actions = self.swap_and_flatten(self.actions).astype(np.float32, copy=False)
        on_device = [torch.as_tensor(array).to(self.device) for array in (actions, *columns)]
        for batch in indices.split(batch_size or total):
            chosen = batch.to(self.device)
            yield RolloutBufferSamples(self._stacks(rows[batch]), *(array[chosen] for array in on_device))

    @property
    def nbytes(self) -> int:
        """Memory of a rollout in bytes."""
        arrays = (self.actions, self.rewards, self.returns, self.episode_starts, self.values, self.log_probs)
        return self._frames.nbytes + self._rows.nbytes + sum(x.nbytes for x in (*arrays, self.advantages))
