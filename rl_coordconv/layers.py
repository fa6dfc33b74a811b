"""
CoordConv layers (Liu et al. 2018, arXiv:1807.03247, section 3) that cost little more than a convolution.

``conv(concat(x, c)) = conv(x; W[:, :C_in]) + conv(c; W[:, C_in:])``: the second term does not depend on the
batch, so it is a position-dependent bias, computed once at batch size 1. The weight keeps the textbook shape
of the literal concat, so checkpoints move to and from other implementations unchanged.

Coordinate channels come after the input: x (along the width), y (along the height), then r. With groups, each
group is followed by coordinates of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def coordinate_map(
    height: int,
    width: int,
    with_r: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """
    Return the coordinate channels x, y and, with ``with_r``, r.

    Both axes span [-1, 1] by their own length; an axis of length 1 is 0; ``r = sqrt(x² + y²)``.

    :param height: Pixels along y
    :param width: Pixels along x
    :param with_r: Add the distance from the centre
    :param device: Where to make it
    :param dtype: Floating-point type
    :return: Tensor ``(2 or 3, height, width)``
    """
    x = _axis(width, device, dtype).expand(height, width)
    y = _axis(height, device, dtype).unsqueeze(1).expand(height, width)
    return torch.stack([x, y, (x * x + y * y).sqrt()] if with_r else [x, y])


def _axis(length: int, device: torch.device | str | None, dtype: torch.dtype) -> Tensor:
    # Whole numbers first: the centre is exactly 0, the ends exactly 1, and the two halves mirror each other.
    steps = torch.arange(1 - length, length, 2, device=device)
    return (steps.to(torch.promote_types(dtype, torch.float32)) / max(length - 1, 1)).to(dtype)


class AddCoords(nn.Module):
    """
    Append coordinate channels to an image, as the paper draws it (section 3, figure 3).

    :param with_r: Add the distance from the centre as a third coordinate
    """

    def __init__(self, with_r: bool = False) -> None:
        super().__init__()
        self.with_r = with_r

    def forward(self, input: Tensor) -> Tensor:
        """
        Return the input followed by its coordinates.

        :param input: ``(batch, channels, height, width)`` of a floating-point type
        :return: ``(batch, channels + 2 or 3, height, width)`` of the same type
        """
        height, width = input.shape[-2:]
        coords = coordinate_map(height, width, self.with_r, input.device, input.dtype)
        return torch.cat([input, coords.expand(input.shape[0], -1, -1, -1)], dim=1)

    def extra_repr(self) -> str:
        """Return what ``print(module)`` shows."""
        return f"with_r={self.with_r}"


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
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
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
        :return: ``(1, out_channels, out_height, out_width)``
        """
        differentiated = torch.is_grad_enabled() and weight.requires_grad
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if differentiated or traced or weight.device.type != "cpu":
            return compute()
        if self.term is None or self.term[0] != key or not torch.equal(self.term[1], weight):
            with torch.inference_mode(False), torch.no_grad():
                self.term = (key, weight.detach().clone(), compute())
        return self.term[2]


class CoordConv2d(nn.Conv2d):
    """
    A ``torch.nn.Conv2d`` that sees where it is (paper section 3).

    Arguments are those of ``torch.nn.Conv2d``, plus ``with_r``. The weight has the shape
    ``(out_channels, in_channels / groups + 2 or 3, kernel height, kernel width)``.

    :param with_r: Add the distance from the centre as a third coordinate
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: Any = None,
        with_r: bool = False,
    ) -> None:
        coord_channels = 3 if with_r else 2
        super().__init__(
            in_channels + groups * coord_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.in_channels = in_channels
        self.with_r = with_r
        self._positional_term = PositionalTerm()

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, with_r: bool = False) -> CoordConv2d:
        """
        Return a layer that computes what a plain convolution does: its coordinate weights are 0.

        :param conv: Trained or new; it is not changed, and no parameter is shared
        :param with_r: Add the distance from the centre as a third coordinate
        """
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            conv.weight.device,
            conv.weight.dtype,
            with_r,
        )
        with torch.no_grad():
            image, coords = layer.split_weight()
            image.copy_(conv.weight)
            coords.zero_()
            if layer.bias is not None and conv.bias is not None:
                layer.bias.copy_(conv.bias)
        return layer.train(conv.training)

    def split_weight(self) -> tuple[Tensor, Tensor]:
        """Return views of the weight's image part and coordinate part."""
        split = self.in_channels // self.groups
        return self.weight[:, :split], self.weight[:, split:]

    def forward(self, input: Tensor) -> Tensor:
        """
        Return ``conv(concat(input, coordinates))``.

        :param input: ``(batch, in_channels, height, width)`` or without the batch
        :return: ``(batch, out_channels, out_height, out_width)`` or without the batch
        """
        split = self.in_channels // self.groups
        image, coords = self.weight.split((split, self.weight.shape[1] - split), 1)
        out = self._conv_forward(input, image, self.bias)
        height, width = input.shape[-2:]
        is_nhwc = out.dim() == 4 and out.is_contiguous(memory_format=torch.channels_last)
        key = (height, width, self.stride, self.padding, self.dilation, coords.dtype, coords.device, is_nhwc)

        def compute() -> Tensor:
            # One matrix product: a convolution of two channels would cost several times as much.
            patches = self._positional_term.constant(key, lambda: self._patches(height, width, coords))
            with torch.autocast(coords.device.type, enabled=False):
                if is_nhwc:  # in the order of the output, so that neither it nor its gradient is copied
                    term = patches.T @ coords.flatten(1).T
                    return term.view(1, *out.shape[-2:], self.out_channels).permute(0, 3, 1, 2)
                return (coords.flatten(1) @ patches).view(1, self.out_channels, *out.shape[-2:])

        return _add(out, self._positional_term(key, coords, compute))

    def _patches(self, height: int, width: int, coords: Tensor) -> Tensor:
        """
        Return the coordinates under every window.

        :param coords: The coordinate part of the weight, for its shape, type and device
        :return: ``(coordinate channels x kernel height x kernel width, out_height x out_width)``
        """
        channels = coordinate_map(height, width, self.with_r, coords.device, coords.dtype)
        size = coords[0].numel()
        pick = torch.eye(size, dtype=coords.dtype, device=coords.device).view(size, *coords.shape[1:])
        with torch.autocast(coords.device.type, enabled=False):
            repeated = channels.repeat(self.groups, 1, 1)[None]
            return self._conv_forward(repeated, pick.repeat(self.groups, 1, 1, 1), None)[0, :size].flatten(1)

    def coord_weight_ratio(self) -> float:
        """Return the norm of the coordinate weights over that of all weights: 0 is translation invariant."""
        return _ratio(self.split_weight()[1], self.weight)

    def extra_repr(self) -> str:
        """Return what ``print(module)`` shows."""
        return f"{super().extra_repr()}, with_r={self.with_r}"


class CoordConvTranspose2d(nn.ConvTranspose2d):
    """
    A ``torch.nn.ConvTranspose2d`` that sees where it is.

    Arguments are those of ``torch.nn.ConvTranspose2d``, plus ``with_r``. The weight has the shape
    ``(in_channels + groups * (2 or 3), out_channels / groups, kernel height, kernel width)``; each group's
    rows end with its coordinates.

    :param with_r: Add the distance from the centre as a third coordinate
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: Any = None,
        with_r: bool = False,
    ) -> None:
        coord_channels = 3 if with_r else 2
        super().__init__(
            in_channels + groups * coord_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device,
            dtype,
        )
        self.in_channels = in_channels
        self.with_r = with_r
        self._positional_term = PositionalTerm()

    def split_weight(self) -> tuple[Tensor, Tensor]:
        """Return the weight's image part and coordinate part (views where ``groups`` is 1)."""
        grouped = self.weight.unflatten(0, (self.groups, -1))
        split = self.in_channels // self.groups
        return grouped[:, :split].flatten(0, 1), grouped[:, split:].flatten(0, 1)

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """
        Return ``conv_transpose(concat(input, coordinates))``.

        :param input: ``(batch, in_channels, height, width)`` or without the batch
        :param output_size: As in ``torch.nn.ConvTranspose2d``
        :return: ``(batch, out_channels, out_height, out_width)`` or without the batch
        """
        image, coords = self.split_weight()
        height, width = input.shape[-2:]
        stride: Any = self.stride
        padding: Any = self.padding
        dilation: Any = self.dilation
        kernel_size: Any = self.kernel_size
        output_padding = self._output_padding(input, output_size, stride, padding, kernel_size, 2, dilation)

        def transposed(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return F.conv_transpose2d(
                images, weight, bias, stride, padding, output_padding, self.groups, dilation
            )

        def compute() -> Tensor:
            channels = self._positional_term.constant(
                (height, width, coords.dtype, coords.device),
                lambda: coordinate_map(height, width, self.with_r, coords.device, coords.dtype),
            )
            with torch.autocast(coords.device.type, enabled=False):
                return transposed(channels.repeat(self.groups, 1, 1)[None], coords, None)

        out = transposed(input, image, self.bias)
        key = (height, width, stride, padding, tuple(output_padding), dilation, self.groups)
        return _add(out, self._positional_term(key, coords, compute))

    def coord_weight_ratio(self) -> float:
        """Return the norm of the coordinate weights over that of all weights: 0 is translation invariant."""
        return _ratio(self.split_weight()[1], self.weight)

    def extra_repr(self) -> str:
        """Return what ``print(module)`` shows."""
        return f"{super().extra_repr()}, with_r={self.with_r}"


def _add(out: Tensor, term: Tensor) -> Tensor:
    """Add the positional term, in place: a convolution's backward pass does not need its output."""
    if out.dim() == 3:
        return out.add_(term[0].to(out.dtype))
    term = term.to(out.dtype)
    eager = torch.is_grad_enabled() and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
    if not (eager and out.is_contiguous(memory_format=torch.channels_last)):
        return out.add_(term)
    return _AddChannelsLast.apply(out, term.contiguous(memory_format=torch.channels_last))


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
        grad = grads[0]
        return grad, grad.permute(0, 2, 3, 1).sum(0, keepdim=True).permute(0, 3, 1, 2)


def _ratio(part: Tensor, whole: Tensor) -> float:
    norm = float(whole.detach().norm())
    return float(part.detach().norm()) / norm if norm else 0.0
