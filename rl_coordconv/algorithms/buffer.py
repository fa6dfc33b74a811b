"""A rollout buffer that keeps frames as uint8 on the device that trains."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

from rl_coordconv.algorithms.frames import ALL, FrameStore, StackStore
from rl_coordconv.errors import UserError

COLUMNS = ("values", "log_probs", "advantages", "returns")


class DeviceRolloutBuffer(RolloutBuffer):
    """
    SB3's ``RolloutBuffer`` for frames: the same samples, in the ``channels_last`` format.

    On a GPU each frame is kept once (:class:`~.frames.FrameStore`), which takes stacks of single frames, and
    observations never go back to the host; on a CPU whole stacks are (:class:`~.frames.StackStore`).

    :param buffer_size: Steps per environment
    :param observation_space: uint8 frames, stacked along the first axis
    :param action_space: As for SB3's buffer, and all further arguments
    :raises UserError: The observations are not stacks of uint8 frames
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
            raise UserError(
                f"buffer device takes stacked uint8 frames (stack, height, width), not {shape} "
                f"{observation_space.dtype}: use buffer='host'"
            )
        self.frames: FrameStore | StackStore | None = None
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def reset(self) -> None:
        """Empty the buffer; its memory on the device is kept, at the same addresses."""
        self.observations = np.empty((0,), dtype=np.uint8)  # SB3's name; the frames are in self.frames
        shape = (self.buffer_size, self.n_envs)
        if self.frames is None:
            if self.device.type == "cpu":
                self.frames = StackStore(*shape, self.obs_shape)
            else:
                self.frames = FrameStore(*shape, self.obs_shape, self.device)
            total = self.buffer_size * self.n_envs
            self._actions = torch.zeros((total, self.action_dim), device=self.device)
            self._columns = torch.zeros((len(COLUMNS), total), device=self.device)
        self.actions = np.zeros((*shape, self.action_dim), dtype=self.action_space.dtype)
        for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
            setattr(self, name, np.zeros(shape, dtype=np.float32))
        self.generator_ready = False
        self.pos, self.full = 0, False

    def keep_scaled(self, dtype: torch.dtype) -> None:
        """Keep observations as images from 0 to 1, as a network computes with them, if on the host."""
        if isinstance(self.frames, StackStore):
            self.frames = StackStore(self.buffer_size, self.n_envs, self.obs_shape, dtype)

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: Tensor,
        log_prob: Tensor,
    ) -> None:
        """Store one step of all environments, as SB3's buffer does."""
        assert self.frames is not None
        self.episode_starts[self.pos] = episode_start
        self.frames.put(self.pos, obs, episode_start)
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

    def minibatches(self, batch_size: int | None = None) -> Iterator[Tensor]:
        """
        Yield what :meth:`samples` takes, in SB3's order, given the same NumPy random state.

        :param batch_size: Samples per minibatch; ``None`` for all at once
        """
        assert self.full, "the rollout is not complete"
        if not self.generator_ready:  # once per update, as in SB3
            assert self.frames is not None
            self.frames.prepare()
            self._actions.copy_(torch.from_numpy(self.actions.reshape(-1, self.action_dim)))
            self._columns.copy_(torch.from_numpy(np.stack([getattr(self, name).ravel() for name in COLUMNS])))
            self.generator_ready = True
        total = self.buffer_size * self.n_envs
        # SB3 counts environment by environment; here, rows of one step are neighbours.
        envs, steps = np.divmod(np.random.permutation(total), self.buffer_size)
        chosen = torch.from_numpy(steps * self.n_envs + envs)
        if self.device.type == "cuda":  # sent while the GPU is still at work on the last epoch
            chosen = chosen.pin_memory().to(self.device, non_blocking=True)
        yield from chosen.split(batch_size or total)

    def samples(self, chosen: Tensor) -> RolloutBufferSamples:
        """
        Return samples, from the device's memory alone.

        :param chosen: ``(batch,) int64`` from :meth:`minibatches`
        """
        assert self.frames is not None
        columns = self._columns.index_select(1, chosen)
        return RolloutBufferSamples(self.frames.take(chosen), self._actions.index_select(0, chosen), *columns)

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """
        Yield minibatches in the order in which SB3's buffer would, given the same NumPy random state.

        :param batch_size: Samples per minibatch; ``None`` for all at once
        """
        yield from map(self.samples, self.minibatches(batch_size))
