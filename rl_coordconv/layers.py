"""
CoordConv layers (Liu et al. 2018, arXiv:1807.03247, section 3) that cost little more than a convolution.

``conv(concat(x, c)) = conv(x; weight) + conv(c; coord_weight)``: the second term does not depend on the
batch, so it is a position-dependent bias, computed once at batch size 1. ``weight`` is exactly the plain
convolution's: whatever initialises a plain network gives it the same numbers. ``concat_weight()`` returns
the textbook tensor of the literal concat, and state dicts of literal concat layers load and split.

Coordinate channels come after the input: x (along the width), y (along the height), then r. With groups, each
group is followed by coordinates of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_coordconv.errors import UserError, choose
from rl_coordconv.positional import PositionalTerm, add_term

CoordInit = Literal["concat", "zeros"]
CoordScale = float | Literal["window"]
COORD_INITS = ("zeros", "concat")
Self = TypeVar("Self", bound="CoordConvLayer")


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


class CoordConvLayer(nn.Module):
    """
    What :class:`CoordConv2d` and :class:`CoordConvTranspose2d` share: a second parameter, ``coord_weight``.

    A mixin before PyTorch's layer. The coordinates that the layer sees are ``coord_scale`` times those of
    :func:`coordinate_map`. Coordinates are nearly constant within a window, so all ``kh * kw`` weights of a
    filter pull together, and one optimizer step moves the positional bias ``kh * kw`` times as far as a bias;
    ``"window"`` divides by ``kh * kw``. The functions that the layer can compute stay the same.
    """

    weight: Tensor
    bias: Tensor | None
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]

    def _add_coordinates(self, with_r: bool, coord_init: CoordInit, coord_scale: CoordScale) -> None:
        """Make ``coord_weight``; the layer's other parameters are there."""
        self.with_r = with_r
        self.coord_init = choose("coord_init", coord_init, COORD_INITS)
        self.coord_scale = check_coord_scale(coord_scale, math.prod(self.kernel_size))
        self._positional_term = PositionalTerm()
        shape = self._split(self._literal_layer("meta").weight)[1].shape
        self.coord_weight = nn.Parameter(self.weight.new_empty(shape))
        self._reset_coordinates(_reset)

    def reset_parameters(self) -> None:
        """Initialise all parameters as PyTorch does, coordinates as ``coord_init`` says."""
        super().reset_parameters()  # type: ignore[misc]
        if hasattr(self, "coord_weight"):  # not yet while PyTorch's constructor runs
            self._reset_coordinates(_reset)

    def _literal_layer(self, device: Any) -> Any:
        """Return PyTorch's layer on the concatenated input, its parameters not initialised."""
        raise NotImplementedError

    def _split(self, concat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image part and the coordinate part of a weight of the literal concat."""
        raise NotImplementedError

    def concat_weight(self) -> Tensor:
        """Return the weight of the literal concat layer that computes the same."""
        raise NotImplementedError

    @torch.no_grad()
    def _reset_coordinates(self, initialise: Callable[[Any], Any]) -> None:
        """
        Start the coordinates at zero, or draw them as ``initialise`` draws the literal concat layer's.

        The random state stays as it was, so that what is drawn next does not depend on coordinates.
        """
        if self.coord_init == "zeros":
            self.coord_weight.zero_()
            return
        twin = self._literal_layer("cpu")
        with torch.random.fork_rng(devices=[]):
            # Numbers of their own: the next layer's weights are drawn from the state that is left behind.
            torch.default_generator.manual_seed(int(torch.randint(2**62, ())))
            initialise(twin)
        self.coord_weight.copy_(self._split(twin.weight)[1])

    def apply(self: Self, fn: Callable[[nn.Module], Any]) -> Self:
        """
        Apply ``fn`` as any module does; if it initialised ``weight``, coordinates are drawn likewise.

        :param fn: E.g. SB3's orthogonal initialisation
        """
        if self.coord_init == "zeros":  # whatever initialises the image's weights
            return super().apply(fn)
        before = self.weight.detach().clone()
        super().apply(fn)
        if not torch.equal(before, self.weight):
            self._reset_coordinates(fn)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Split the weight of a literal concat layer, as version 0.1.0 and others have it."""
        weight, coords = state_dict.get(f"{prefix}weight"), f"{prefix}coord_weight"
        if (
            coords not in state_dict
            and weight is not None
            and weight.shape == self._literal_layer("meta").weight.shape
        ):
            image, part = self._split(weight)
            state_dict[f"{prefix}weight"], state_dict[coords] = image, part / self.coord_scale
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def coord_weight_ratio(self) -> float:
        """
        Return the norm of the coordinates' part over that of all of ``concat_weight()``.

        0 is translation invariant. Two layers that compute the same have the same ratio, whatever their
        ``coord_scale``.
        """
        coords = float(self.coord_weight.detach().norm()) * abs(self.coord_scale)
        whole = math.hypot(float(self.weight.detach().norm()), coords)
        return coords / whole if whole else 0.0

    def extra_repr(self) -> str:
        """Return what ``print(module)`` shows."""
        scale = f"{self.coord_scale:.4g}"
        return (
            f"{super().extra_repr()}, with_r={self.with_r}, coord_init={self.coord_init}, coord_scale={scale}"
        )


def _reset(layer: Any) -> None:
    layer.reset_parameters()


def check_coord_scale(coord_scale: Any, window: int) -> float:
    """
    Return the number that a ``coord_scale`` means.

    :param coord_scale: A number, or ``"window"``
    :param window: Pixels of the layer's window, kh * kw
    :raises UserError: It is something else, zero or not finite
    """
    if coord_scale == "window":
        return 1 / window
    is_number = isinstance(coord_scale, (int, float)) and not isinstance(coord_scale, bool)
    if not is_number or not math.isfinite(coord_scale) or coord_scale == 0:
        raise UserError(
            f"coord_scale is {coord_scale!r}: it must be 'window' or a finite number other than 0"
        )
    return float(coord_scale)


class CoordConv2d(CoordConvLayer, nn.Conv2d):
    """
    A ``torch.nn.Conv2d`` that sees where it is (paper section 3).

    Arguments are those of ``torch.nn.Conv2d``, plus those below. ``weight`` is that of ``torch.nn.Conv2d``;
    ``coord_weight`` has the shape ``(out_channels, 2 or 3, kernel height, kernel width)``. With the defaults
    it is the paper's layer, ``conv(concat(x, coordinates))``.

    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: ``concat`` draws ``coord_weight`` as the literal concat layer would, ``zeros`` starts
        as exactly the plain convolution
    :param coord_scale: Factor on the coordinates, or ``window`` for one over the window's pixels
    :raises UserError: ``coord_init`` or ``coord_scale`` is not allowed
    """

    def __init__(
        self,
        *args: Any,
        with_r: bool = False,
        coord_init: CoordInit = "concat",
        coord_scale: CoordScale = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._add_coordinates(with_r, coord_init, coord_scale)

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        with_r: bool = False,
        coord_init: CoordInit = "zeros",
        coord_scale: CoordScale = 1.0,
    ) -> CoordConv2d:
        """
        Return a layer with the weights of a plain convolution, which computes the same as that at first.

        The random state stays as it was.

        :param conv: Trained or new; it is not changed, and no parameter is shared
        :param with_r: Add the distance from the centre as a third coordinate
        :param coord_init: ``concat`` draws coordinate weights, so that the layer does not compute the same
        :param coord_scale: As for the layer
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
            "meta",  # draws no random numbers
            conv.weight.dtype,
            with_r=with_r,
            coord_init=coord_init,
            coord_scale=coord_scale,
        ).to_empty(device=conv.weight.device)
        layer._reset_coordinates(_reset)
        layer.load_state_dict({**conv.state_dict(), "coord_weight": layer.coord_weight})
        return layer.train(conv.training)

    def _literal_layer(self, device: Any) -> nn.Conv2d:
        channels = self.in_channels + self.groups * (3 if self.with_r else 2)
        size = (channels, self.out_channels, self.kernel_size)
        options = {"groups": self.groups, "bias": self.bias is not None, "dtype": self.weight.dtype}
        return nn.utils.skip_init(nn.Conv2d, *size, **options, device=device)

    def _split(self, concat: Tensor) -> tuple[Tensor, Tensor]:
        split = self.in_channels // self.groups
        return concat[:, :split], concat[:, split:]

    def concat_weight(self) -> Tensor:
        """
        Return the weight of the literal concat layer that computes the same.

        :return: ``(out_channels, in_channels / groups + 2 or 3, kernel height, kernel width)``
        """
        return torch.cat([self.weight, self.coord_weight * self.coord_scale], 1)

    def forward(self, input: Tensor) -> Tensor:
        """
        Return ``conv(concat(input, coord_scale * coordinates))``.

        :param input: ``(batch, in_channels, height, width)`` or without the batch
        :return: ``(batch, out_channels, out_height, out_width)`` or without the batch
        """
        out = self._conv_forward(input, self.weight, self.bias)
        is_nhwc = out.dim() == 4 and out.is_contiguous(memory_format=torch.channels_last)
        return add_term(out, self._positional(input.shape[-2:], out.shape[-2:], is_nhwc))

    def positional_bias(self, height: int, width: int) -> Tensor:
        """
        Return what each filter adds where, for images of this size; the bias is not in it.

        :param height: Of the input
        :param width: Of the input
        :return: ``(out_channels, out_height, out_width)``
        """
        coords = self.coord_weight
        image = torch.empty(self.in_channels, height, width, device="meta", dtype=coords.dtype)
        size = self._conv_forward(image, self.weight.to("meta"), None).shape[-2:]
        return self._positional(torch.Size((height, width)), size, False)[0]

    def _positional(self, size: torch.Size, out_size: torch.Size, is_nhwc: bool) -> Tensor:
        """Return the positional term ``(1, out_channels, out_height, out_width)``."""
        coords = self.coord_weight
        options = (self.stride, self.padding, self.dilation, self.coord_scale)
        key = (*size, *options, coords.dtype, coords.device, is_nhwc)

        def compute() -> Tensor:
            # One matrix product: a convolution of two channels would cost several times as much.
            patches = self._positional_term.constant(key, lambda: self._patches(*size))
            with torch.autocast(coords.device.type, enabled=False):
                if is_nhwc:  # in the order of the output, so that neither it nor its gradient is copied
                    term = patches.T @ coords.flatten(1).T
                    return term.view(1, *out_size, self.out_channels).permute(0, 3, 1, 2)
                return (coords.flatten(1) @ patches).view(1, self.out_channels, *out_size)

        return self._positional_term(key, coords, compute)

    def _patches(self, height: int, width: int) -> Tensor:
        """
        Return the scaled coordinates under every window.

        :return: ``(coordinate channels x kernel height x kernel width, out_height x out_width)``
        """
        coords = self.coord_weight
        channels = coordinate_map(height, width, self.with_r, coords.device, coords.dtype)
        size = coords[0].numel()
        pick = torch.eye(size, dtype=coords.dtype, device=coords.device).view(size, *coords.shape[1:])
        with torch.autocast(coords.device.type, enabled=False):
            repeated = channels.repeat(self.groups, 1, 1)[None]
            picked = self._conv_forward(repeated, pick.repeat(self.groups, 1, 1, 1), None)[0, :size]
        return picked.flatten(1) * self.coord_scale


class CoordConvTranspose2d(CoordConvLayer, nn.ConvTranspose2d):
    """
    A ``torch.nn.ConvTranspose2d`` that sees where it is.

    Arguments are those of ``torch.nn.ConvTranspose2d``, plus those of :class:`CoordConv2d`. ``weight`` is
    that of ``torch.nn.ConvTranspose2d``; ``coord_weight`` has the shape
    ``(groups * (2 or 3), out_channels / groups, kernel height, kernel width)``.

    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: ``concat`` draws ``coord_weight`` as the literal concat layer would, ``zeros`` starts
        as exactly the plain layer
    :param coord_scale: Factor on the coordinates, or ``window`` for one over the window's pixels
    :raises UserError: ``coord_init`` or ``coord_scale`` is not allowed
    """

    def __init__(
        self,
        *args: Any,
        with_r: bool = False,
        coord_init: CoordInit = "concat",
        coord_scale: CoordScale = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._add_coordinates(with_r, coord_init, coord_scale)

    def _literal_layer(self, device: Any) -> nn.ConvTranspose2d:
        channels = self.in_channels + self.groups * (3 if self.with_r else 2)
        size = (channels, self.out_channels, self.kernel_size)
        options = {"groups": self.groups, "bias": self.bias is not None, "dtype": self.weight.dtype}
        return nn.utils.skip_init(nn.ConvTranspose2d, *size, **options, device=device)

    def _split(self, concat: Tensor) -> tuple[Tensor, Tensor]:
        grouped = concat.unflatten(0, (self.groups, -1))
        split = self.in_channels // self.groups
        return grouped[:, :split].flatten(0, 1), grouped[:, split:].flatten(0, 1)

    def concat_weight(self) -> Tensor:
        """
        Return the weight of the literal concat layer that computes the same.

        :return: ``(in_channels + groups * (2 or 3), out_channels / groups, kernel height, kernel width)``;
            each group's rows end with its coordinates
        """
        parts = (self.weight, self.coord_weight * self.coord_scale)
        return torch.cat([part.unflatten(0, (self.groups, -1)) for part in parts], 1).flatten(0, 1)

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """
        Return ``conv_transpose(concat(input, coord_scale * coordinates))``.

        :param input: ``(batch, in_channels, height, width)`` or without the batch
        :param output_size: As in ``torch.nn.ConvTranspose2d``
        :return: ``(batch, out_channels, out_height, out_width)`` or without the batch
        """
        sizes: Any = (self.stride, self.padding, self.kernel_size, 2, self.dilation)
        output_padding = self._output_padding(input, output_size, *sizes)
        out = self._transposed(input, self.weight, self.bias, output_padding)
        return add_term(out, self._positional(input.shape[-2:], output_padding))

    def positional_bias(self, height: int, width: int) -> Tensor:
        """
        Return what each filter adds where, for images of this size; the bias is not in it.

        :param height: Of the input
        :param width: Of the input
        :return: ``(out_channels, out_height, out_width)``
        """
        return self._positional(torch.Size((height, width)), list(self.output_padding))[0]

    def _positional(self, size: torch.Size, output_padding: list[int]) -> Tensor:
        """Return the positional term ``(1, out_channels, out_height, out_width)``."""
        coords = self.coord_weight
        key = (*size, self.coord_scale, coords.dtype, coords.device)

        def make() -> Tensor:
            channels = coordinate_map(size[0], size[1], self.with_r, coords.device, coords.dtype)
            return channels.repeat(self.groups, 1, 1)[None] * self.coord_scale

        def compute() -> Tensor:
            with torch.autocast(coords.device.type, enabled=False):
                channels = self._positional_term.constant(key, make)
                return self._transposed(channels, coords, None, output_padding)

        options = (self.stride, self.padding, tuple(output_padding), self.dilation)
        return self._positional_term((*key, *options), coords, compute)

    def _transposed(
        self, images: Tensor, weight: Tensor, bias: Tensor | None, output_padding: list[int]
    ) -> Tensor:
        stride: Any = self.stride
        padding: Any = self.padding
        dilation: Any = self.dilation
        return F.conv_transpose2d(
            images, weight, bias, stride, padding, output_padding, self.groups, dilation
        )


def positional_bias(layer: CoordConv2d | CoordConvTranspose2d, height: int, width: int) -> Tensor:
    """
    Return the map that each filter of a layer adds to its output, whatever the image shows.

    :param layer: A CoordConv layer
    :param height: Of the layer's input
    :param width: Of the layer's input
    :return: ``(filters, out_height, out_width)``, without the bias
    """
    with torch.no_grad():
        return layer.positional_bias(height, width).clone()
