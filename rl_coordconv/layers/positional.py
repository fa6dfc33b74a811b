"""The batch-independent term of a CoordConv layer: when to compute it, and how to add it to a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rl_coordconv.layers.coords import coordinate_map


def is_traced() -> bool:
    """Whether a graph is being recorded, into which no cache and no Python function of ours may go."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class PositionalTerm:
    """
    What a CoordConv layer keeps of its batch-independent term, for rollouts and evaluation.

    The term holds while nothing is differentiated. It is kept with a copy of the coordinate weights, not with
    a version counter, which edits through ``.data`` leave as it was (SB3's Polyak update of DQN's target
    network). Comparing the weights would make a GPU wait, so there the term is computed each time, at the
    price of two small matrix products. Nothing of this is saved, pickled or copied.
    """

    def __init__(self) -> None:
        self.constants: tuple[Any, Any] = (None, None)
        self.key: Any = None
        self.weight: Tensor = torch.empty(0)
        self.term: Tensor = torch.empty(0)

    def __deepcopy__(self, memo: dict[int, Any]) -> PositionalTerm:
        return PositionalTerm()

    def __reduce__(self) -> tuple[type[PositionalTerm], tuple[()]]:
        return PositionalTerm, ()

    def constant(self, key: Any, make: Callable[[], Any]) -> Any:
        """
        Return what the term is made of besides the weight, made once per key.

        :param key: All that it depends on
        :param make: Makes it
        """
        if is_traced():
            return make()
        if self.constants[0] != key:
            # A tensor made in inference mode could not be used for training later.
            with torch.inference_mode(False), torch.no_grad():
                self.constants = (key, make())
        return self.constants[1]

    def add(self, out: Tensor, weight: Tensor, key: Any, compute: Callable[..., Tensor]) -> Tensor:
        """
        Return a batch plus the term, computed only where it has to be.

        Python's own time counts here: at a batch of 8 a call too many is a hundredth of a network's forward.

        :param out: A convolution's output; it is changed in place, which its backward pass does not mind
        :param weight: The coordinate part of the weight
        :param key: Everything that the term depends on but the weight and what ``out`` says
        :param compute: Makes the term, ``(out_channels, out_height, out_width)``, of ``out`` and the key
        """
        kind = out.device.type
        if torch.is_autocast_enabled(kind):  # the term is as exact as the weights are
            with torch.autocast(kind, enabled=False):
                return self.add(out, weight, key, compute)
        if kind != "cpu" or is_traced():
            return out.add_(compute(out, *key))
        if weight.requires_grad and torch.is_grad_enabled():
            return add_differentiated(out, compute(out, *key))
        found = (key, out.dtype, out.stride()[-3:], weight.dtype)
        if found != self.key or not torch.equal(weight, self.weight):
            with torch.inference_mode(False), torch.no_grad():
                self.key, self.weight, self.term = found, weight.detach().clone(), compute(out, *key)
        return out.add_(self.term)


def affine_factors(patches: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """
    Return two small factors of patches that change by the same amount from each pixel to the next.

    :param patches: ``(taps, height * width)``
    :return: ``(taps, 3)`` and ``(3, height * width)``, whose product is ``patches``
    """
    corners = patches.unflatten(1, (height, width))
    first, right, below, last = corners[:, 0, 0], corners[:, 0, -1], corners[:, -1, 0], corners[:, -1, -1]
    mix = torch.stack([(first + last) / 2, (right - first) / 2, (below - first) / 2], 1)
    axes = coordinate_map(height, width, device=patches.device, dtype=patches.dtype).flatten(1)
    return mix, torch.cat([torch.ones_like(axes[:1]), axes])


def is_channels_last(images: Tensor) -> bool:
    """Whether images lie in memory pixel by pixel."""
    return images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)


def add_differentiated(out: Tensor, term: Tensor) -> Tensor:
    """
    Return a batch plus the positional term.

    To a ``channels_last`` batch it is added as a matrix product of ones and the term, as the backward pass of
    a plain addition sums such a gradient over the batch 50 times as slowly.
    """
    if not is_channels_last(out):
        return out.add_(term)
    pixels = out.permute(0, 2, 3, 1)
    added = torch.addmm(pixels.flatten(1), out.new_ones(len(out), 1), term.permute(1, 2, 0).reshape(1, -1))
    return added.view(pixels.shape).permute(0, 3, 1, 2)
