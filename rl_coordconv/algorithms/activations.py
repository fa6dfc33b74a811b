"""What convolutions gave in a rollout, for an update that would compute the same once more."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

COSTLY = {torch.ops.aten.convolution.default: 0, torch.ops.aten.addmm.default: 1}
"""Operations that are kept, and which of their arguments is the batch."""
FEWEST_ENVS = 4
"""A single sample would not differ from what a layer computes for all samples; halves have two of these."""


class Activations(TorchDispatchMode):
    """
    Results of costly operations for each sample of a rollout, in the order ``step x n_envs + environment``.

    As a context it keeps them (after :meth:`keep`), or gives them back instead of computing them (after
    :meth:`recalled`). Autograd works above this mode: it records the same operations in both cases, and their
    backward pass is PyTorch's own. They are good for an update with the weights that acted, as A2C's. Weights
    that change during a rollout are noticed, unless through ``.data``.

    :param policy: What computes; its extractors must compute in an update what they computed in the rollout
    :param n_steps: Steps of a rollout
    :param n_envs: Number of environments
    """

    def __init__(self, policy: ActorCriticPolicy, n_steps: int, n_envs: int) -> None:
        super().__init__()
        self.parameters = list(policy.parameters())
        self.n_steps, self.n_envs = n_steps, n_envs
        self.n_samples = n_steps * n_envs
        self.n_kept = 0
        self._versions: list[int] = []
        self._results: list[Tensor] = []
        self._position = self._batch_size = 0
        self._place: tuple[int, slice] | None = None

    def keep(self, step: int, envs: slice) -> None:
        """Make ready for the results of a step of some environments."""
        versions = self._present_versions()
        if versions != self._versions:
            self._versions, self.n_kept = versions, 0
        self._place, self._position = (step, envs), 0
        self._batch_size = len(range(self.n_envs)[envs])
        self.n_kept += self._batch_size

    def recalled(self) -> Activations:
        """Return a context for one pass over all samples, in their order, which may change the results."""
        self.n_kept = 0
        self._place, self._position = None, 0
        self._batch_size = self.n_samples
        return self

    def are_whole(self) -> bool:
        """Return whether each sample's results are here, once, of the weights as they are now."""
        return self.n_kept == self.n_samples and self._versions == self._present_versions()

    def _present_versions(self) -> list[int]:
        return [parameter._version for parameter in self.parameters]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute an operation, or give back what it gave."""
        is_kept = func in COSTLY and len(args[COSTLY[func]]) == self._batch_size
        if not is_kept:
            return func(*args, **(kwargs or {}))
        position = self._position
        self._position += 1
        if self._place is None:
            return self._results[position].flatten(0, 1)
        result = func(*args, **(kwargs or {}))
        if position == len(self._results):
            self._results.append(self._empty_like(result))
        self._results[position][self._place] = result
        return result

    def _empty_like(self, result: Tensor) -> Tensor:
        """Return a place for a rollout's results like this one of some samples, in its memory format."""
        is_last = result.dim() == 4 and result.is_contiguous(memory_format=torch.channels_last)
        whole = result.new_empty((self.n_samples, *result.shape[1:]))
        if is_last:
            whole = whole.contiguous(memory_format=torch.channels_last)
        return whole.unflatten(0, (self.n_steps, self.n_envs))
