"""The batch-independent term of a CoordConv layer: when to compute it, and how to add it to a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.forward_ad import unpack_dual

from rl_coordconv.layers.coords import coordinate_map


def has_tangent(weight: Tensor) -> bool:
    """Whether forward-mode differentiation is under way through a weight."""
    return unpack_dual(weight).tangent is not None


def is_traced() -> bool:
    """Whether a graph is being recorded, into which no cache and no Python function of ours may go."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class Kept(NamedTuple):
    """
    What is kept; replaced as a whole, as threads may share a layer.

    :param key: What the constants hold for
    :param constants: What the weight is multiplied by
    :param weight: What the term holds for, None before there is one
    :param term: The term
    """

    key: Any = None
    constants: Any = None
    weight: Tensor | None = None
    term: Tensor | None = None


NOTHING = Kept()


class PositionalTerm:
    """
    What a CoordConv layer keeps of its batch-independent term, for rollouts and evaluation.

    The term holds while nothing is differentiated. It is kept with a copy of the coordinate weights, not with
    a version counter, which edits through ``.data`` leave as it was (SB3's Polyak update of DQN's target
    network). Comparing the weights would make a GPU wait, so there the term is computed each time, at the
    price of two small matrix products. Nothing of this is saved, pickled or copied.
    """

    def __init__(self) -> None:
        # By memory formats of batch and weight: a CUDA graph that was recorded in one goes on reading its
        # constants while evaluations come in another.
        self.kept: dict[tuple[bool, bool], Kept] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> PositionalTerm:
        return PositionalTerm()

    def __reduce__(self) -> tuple[type[PositionalTerm], tuple[()]]:
        return PositionalTerm, ()

    def add(
        self,
        out: Tensor,
        weight: Tensor,
        options: tuple[Any, ...],
        make: Callable[..., Any],
        multiply: Callable[[Tensor, Any], Tensor],
    ) -> Tensor:
        """
        Return a batch plus the term, computed only where it has to be.

        Python's own time counts here: at a batch of 8 a call too many is a hundredth of a network's forward.

        :param out: A convolution's output; it is changed in place, which its backward pass does not mind
        :param weight: The coordinate part of the weight
        :param options: Everything that the term depends on but the weight and what ``out`` says
        :param make: Makes of ``out`` and the options what the weight is multiplied by; kept, at the same
            address for CUDA graphs, as long as sizes and options stay the same
        :param multiply: Makes the term of ``out`` and that, ``(out_channels, out_height, out_width)``, or
            ``(out_height, out_width, out_channels)`` where ``out`` is ``channels_last``
        """
        kind = out.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):  # the term is as exact as the weights are
            with torch.autocast(kind, enabled=False):
                return self.add(out, weight, options, make, multiply)
        pixels_last = is_channels_last(out)
        if is_traced():
            return _add(out, multiply(out, make(out, *options)), pixels_last)
        if is_functorch_wrapped_tensor(weight):  # of many weights there are many outputs: none in place
            added = multiply(out, make(out, *options))
            return out + (added.permute(2, 0, 1) if pixels_last else added)
        formats = (pixels_last, is_channels_last(weight))
        key = (options, weight.dtype, weight.device)
        kept = self.kept.get(formats, NOTHING)
        if key != kept.key:
            # A tensor made in inference mode could not be used for training later.
            with torch.inference_mode(False), torch.no_grad():
                self.kept[formats] = kept = Kept(key, make(out, *options))
        if kind != "cpu" or (weight.requires_grad and torch.is_grad_enabled()) or has_tangent(weight):
            return _add(out, multiply(out, kept.constants), pixels_last)
        term, known = kept.term, kept.weight
        if term is None or known is None or term.dtype != out.dtype or not torch.equal(weight, known):
            with torch.inference_mode(False), torch.no_grad():
                term = multiply(out, kept.constants)
                self.kept[formats] = Kept(key, kept.constants, weight.detach().clone(), term)
        return _add(out, term, pixels_last)


def _add(out: Tensor, term: Tensor, pixels_last: bool) -> Tensor:
    """
    Add a term to a batch, in place.

    To a ``channels_last`` batch it is added pixel by pixel, as it lies in memory: the backward pass would
    otherwise sum the gradient over the batch 50 times as slowly.
    """
    return out.add_(term.expand(out.shape[0], *term.shape).permute(0, 3, 1, 2) if pixels_last else term)


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
    """Whether images lie in memory pixel by pixel; ``torch.vmap`` does not say, and gets False."""
    try:
        return images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)
    except RuntimeError:
        return False
