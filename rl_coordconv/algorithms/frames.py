"""Where the observations of a rollout are kept, as uint8, on the device that trains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ALL = slice(None)


class StackStore:
    """
    Whole stacks in the ``channels_last`` format: what the host has memory for, and gathers fastest.

    In a float dtype they are kept as images from 0 to 1, scaled once instead of whenever they are taken.

    :param n_steps: Steps of a rollout
    :param n_envs: Number of environments
    :param shape: Of an observation: (stack, height, width)
    :param dtype: Of what is kept
    """

    def __init__(
        self, n_steps: int, n_envs: int, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8
    ) -> None:
        stack, height, width = shape
        self.stacks = torch.zeros((n_steps, n_envs, height, width, stack), dtype=dtype)

    def stage(
        self, step: int, observations: np.ndarray, episode_starts: np.ndarray, envs: slice = ALL
    ) -> tuple[Tensor, ...]:
        """Keep the observations of a step; see :meth:`FrameStore.stage`."""
        place = self.stacks[step, envs]
        # Half the time of a copy of the transposed array.
        place.copy_(torch.stack(torch.from_numpy(observations).unbind(1), dim=-1))
        if place.is_floating_point():
            place.div_(255)
        return (place.permute(0, 3, 1, 2),)

    def place(self, stacks: Tensor) -> Tensor:
        """Return the observations, which are where they belong."""
        return stacks

    def put(self, step: int, observations: np.ndarray, episode_starts: np.ndarray) -> None:
        """Keep the observations of a step of all environments."""
        self.stage(step, observations, episode_starts)

    def prepare(self) -> None:
        """Make ready for :meth:`take`."""

    def take(self, samples: Tensor) -> Tensor:
        """
        Return observations, ``(batch, stack, height, width)``, ``channels_last``.

        :param samples: ``(batch,) int64``: step x n_envs + environment
        """
        rows = self.stacks.flatten(0, 1)
        # Rows of bytes, copied whole: a fifth of the time of putting four frames together.
        return rows.flatten(1).index_select(0, samples).view(-1, *rows.shape[1:]).permute(0, 3, 1, 2)


NOT_STACKED = (
    "these environments do not stack single frames (newest last, zeros before an episode's start), so the "
    "device buffer cannot rebuild their observations: use buffer='host'"
)


class FrameStore:
    """
    Every frame once: what is worth sending to a GPU, and a quarter of the memory.

    Two neighbouring observations share all frames but one, so a rollout of ``T`` steps is ``T + stack - 1``
    frames per environment. Stacks are put together when they are wanted; frames from before an episode's
    start are zero, as ``VecFrameStack`` (and this package's environments) have them.

    :param n_steps: Steps of a rollout
    :param n_envs: Number of environments
    :param shape: Of an observation: (stack, height, width)
    :param device: Where the frames are kept
    """

    def __init__(self, n_steps: int, n_envs: int, shape: tuple[int, ...], device: torch.device) -> None:
        self.shape, self.n_envs, self.device = shape, n_envs, device
        stack, height, width = shape
        # One row more, always zero: what a stack shows of the time before its episode.
        n_rows = (n_steps + stack - 1) * n_envs + 1
        self.frames = torch.zeros((n_rows, height * width), dtype=torch.uint8, device=device)
        on_gpu = device.type == "cuda"
        self._newest = torch.zeros((n_envs, height * width), dtype=torch.uint8, pin_memory=on_gpu)
        self._rows = torch.zeros((n_steps, n_envs, stack), dtype=torch.int64, pin_memory=on_gpu)
        self._rows_on_device = torch.zeros((n_steps * n_envs, stack), dtype=torch.int64, device=device)
        self._starts = np.zeros((n_steps, n_envs), dtype=bool)
        self._previous = np.zeros((n_envs, *shape), dtype=np.uint8)
        self._checked = False
        self._sent = torch.cuda.Event() if on_gpu else None

    def stage(
        self, step: int, observations: np.ndarray, episode_starts: np.ndarray, envs: slice = ALL
    ) -> tuple[Tensor, ...]:
        """
        Note down the observations of a step, on the host.

        :param step: Which step of the rollout, from 0
        :param observations: (n, stack, height, width) uint8, newest frame last
        :param episode_starts: (n,) bool: where this is the first observation of an episode
        :param envs: Which environments these are
        :return: What :meth:`place` takes on the device; on a GPU's host, pinned
        """
        stack = self.shape[0]
        if not self._checked:
            self._check(step, observations, episode_starts, envs)
        starts = np.flatnonzero(episode_starts)
        if len(starts) and observations[starts, :-1].any():
            raise ValueError(NOT_STACKED)
        if self._sent is not None:
            self._sent.synchronize()  # the copy of the last newest frames may be under way
        if step == 0:
            frames = self.frames[:-1].view(-1, self.n_envs, self.frames.shape[1])
            old = torch.from_numpy(np.ascontiguousarray(observations[:, :-1].swapaxes(0, 1)))
            frames[: stack - 1, envs] = old.flatten(2).to(self.device)
        self._newest.numpy()[envs] = observations[:, -1].reshape(len(observations), -1)
        self._starts[step, envs] = episode_starts
        self._rows[step, envs] = torch.from_numpy(self._rows_of_step(step, envs))
        return self._newest[envs], self._rows[step, envs]

    def place(self, newest: Tensor, rows: Tensor) -> Tensor:
        """
        Keep the newest frames and return the observations that they complete; on the device only.

        :param newest: ``(n, height x width) uint8``
        :param rows: ``(n, stack) int64``: where the frames of each observation are
        :return: ``(n, stack, height, width) uint8``, ``channels_last``
        """
        self.frames.index_copy_(0, rows[:, -1], newest)
        return self._stacks(rows)

    def put(self, step: int, observations: np.ndarray, episode_starts: np.ndarray) -> None:
        """Keep the observations of a step of all environments."""
        staged = self.stage(step, observations, episode_starts)
        self.place(*(tensor.to(self.device, non_blocking=True) for tensor in staged))
        if self._sent is not None:
            self._sent.record(torch.cuda.current_stream(self.device))

    def prepare(self) -> None:
        """Send to the device where the frames of each observation are."""
        self._rows_on_device.copy_(self._rows.flatten(0, 1), non_blocking=True)

    def take(self, samples: Tensor) -> Tensor:
        """
        Return observations, ``(batch, stack, height, width) uint8``, ``channels_last``.

        :param samples: ``(batch,) int64``: step x n_envs + environment
        """
        return self._stacks(self._rows_on_device.index_select(0, samples))

    def _stacks(self, rows: Tensor) -> Tensor:
        """Put together the frames in these rows, ``(batch, stack) int64``."""
        stack, height, width = self.shape
        columns = [self.frames.index_select(0, column) for column in rows.unbind(1)]
        return torch.stack(columns, dim=-1).view(-1, height, width, stack).permute(0, 3, 1, 2)

    def _rows_of_step(self, step: int, envs: slice) -> np.ndarray:
        """Return, (n, stack) int64, the rows of ``frames`` that make up the observations of a step."""
        stack = self.shape[0]
        rows = (step + np.arange(stack)) * self.n_envs + np.arange(self.n_envs)[envs, None]
        for back in range(min(stack - 1, step + 1)):
            rows[self._starts[step - back, envs], : stack - 1 - back] = len(self.frames) - 1
        return rows

    def _check(self, step: int, observations: np.ndarray, episode_starts: np.ndarray, envs: slice) -> None:
        """Make sure, during the first rollout, that the observations are what this store takes them for."""
        if step:
            expected = self._previous[envs, 1:].copy()
            expected[np.asarray(episode_starts, dtype=bool)] = 0
            if not np.array_equal(observations[:, :-1], expected):
                raise ValueError(NOT_STACKED)
        self._previous[envs] = observations
        if step + 1 == len(self._starts) and (envs.stop is None or envs.stop == self.n_envs):
            self._checked = True
