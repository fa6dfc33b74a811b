"""The batch-independent term of a CoordConv layer: when to compute it, and how to add it to a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def is_traced() -> bool:
    """Whether a graph is being recorded, into which no cache and no Python function of ours may go."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class PositionalTerm:
    """
    The batch-independent term of a CoordConv layer, and its cache for rollouts and evaluation.

    The cache holds while nothing is differentiated. It is keyed on size, type and a copy of the coordinate
    weights, not on a version counter, which edits through ``.data`` leave as it was (SB3's Polyak update of
    DQN's target network). Comparing the weights would make a GPU wait, so there the term is computed each
    time, at the price of one small convolution. The cache is neither saved, pickled nor copied.
    """

    def __init__(self) -> None:
        self.constants: tuple[Any, Tensor] | None = None
        self.term: tuple[Any, Tensor, Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PositionalTerm:
        return PositionalTerm()

    def __reduce__(self) -> tuple[type[PositionalTerm], tuple[()]]:
        return PositionalTerm, ()

    def constant(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """
        Return what the term is made of besides the weight, made once per key.

        :param key: All that it depends on
        :param make: Makes it
        """
        if is_traced():
            return make()
        if self.constants is None or self.constants[0] != key:
            # A tensor made in inference mode could not be used for training later.
            with torch.inference_mode(False), torch.no_grad():
                self.constants = (key, make())
        return self.constants[1]

    def __call__(self, key: Any, weight: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """
        Return the term, from the cache where that is safe.

        :param key: Everything but the weight that the term depends on
        :param weight: The coordinate part of the weight
        :param compute: Makes the term
        :return: ``(out_channels, out_height, out_width)``
        """
        if is_traced() or weight.device.type != "cpu":
            return compute()
        if self.term is None or self.term[0] != key or not torch.equal(self.term[1], weight):
            with torch.inference_mode(False), torch.no_grad():
                self.term = (key, weight.detach().clone(), compute())
        return self.term[2]


def is_differentiated(weight: Tensor) -> bool:
    """Whether a gradient of the weight may be asked for, in a pass that is not being recorded as a graph."""
    return torch.is_grad_enabled() and weight.requires_grad and not is_traced()


def is_channels_last(images: Tensor) -> bool:
    """Whether images lie in memory pixel by pixel."""
    return images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)


def add_differentiated(out: Tensor, term: Tensor) -> Tensor:
    """Add the positional term, in place: a convolution's backward pass does not need its output."""
    if is_channels_last(out):
        return _AddChannelsLast.apply(out, term)
    return out.add_(term)


class _AddChannelsLast(torch.autograd.Function):
    """
    In-place addition of a batch-independent term to a ``channels_last`` batch.

    PyTorch's own backward sums a ``channels_last`` gradient over the batch into a contiguous result, which
    takes 50 times as long as a sum that keeps the order.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, term: Tensor) -> Tensor:
        ctx.mark_dirty(out)
        return out.add_(term)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        [grad] = grads
        flat = grad.permute(0, 2, 3, 1).reshape(len(grad), -1)
        # A matrix product sums a large batch in half the time of sum(0); in low precision it would round.
        is_exact = flat.dtype in (torch.float32, torch.float64)
        summed = flat.new_ones(1, len(flat)) @ flat if is_exact else flat.sum(0)
        return grad, summed.view(*grad.shape[2:], -1).permute(2, 0, 1)
