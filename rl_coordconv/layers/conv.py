"""``torch.nn.Conv2d`` with coordinates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from rl_coordconv.errors import UserError
from rl_coordconv.layers.base import CoordConvLayer, CoordInit, CoordScale, reset
from rl_coordconv.layers.coords import coordinate_map
from rl_coordconv.layers.positional import affine_factors, is_channels_last


class CoordConv2d(CoordConvLayer, nn.Conv2d):
    """
    A ``torch.nn.Conv2d`` that sees where it is (paper section 3).

    Arguments are those of ``torch.nn.Conv2d``, plus those below. ``weight`` is that of ``torch.nn.Conv2d``;
    ``coord_weight`` has the shape ``(out_channels, 2 or 3, kernel height, kernel width)``. With the defaults
    it is the paper's layer, ``conv(concat(x, coordinates))``, with coordinates from -1 to 1 over the input.

    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: ``concat`` draws ``coord_weight`` as the literal concat layer would, ``zeros`` starts
        as exactly the plain convolution
    :param coord_scale: Factor on the coordinates; ``window``: one over the window's pixels; ``root``: one
        over their root
    :raises UserError: ``coord_init`` or ``coord_scale`` is not allowed
    """

    _plain = nn.Conv2d

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
        :raises UserError: It sees coordinates already, or computes in a way of its own
        """
        if isinstance(conv, CoordConvLayer):
            raise UserError("this convolution sees coordinates already")
        kind = type(conv)
        if not isinstance(conv, nn.Conv2d) or isinstance(conv.weight, UninitializedParameter):
            raise UserError(f"from_conv takes a Conv2d that has its weights, not a {kind.__name__}")
        if (kind.forward, kind._conv_forward) != (nn.Conv2d.forward, nn.Conv2d._conv_forward):
            raise UserError(f"a {kind.__name__} is no plain convolution: it computes in a way of its own")
        if conv.state_dict().keys() - {"weight", "bias"}:
            raise UserError(
                "this convolution's weight is computed from others, e.g. by weight_norm: remove that first"
            )
        if conv._forward_hooks or conv._forward_pre_hooks:
            raise UserError("this convolution has hooks, which may change its output: remove them first")
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
        layer._reset_coordinates(reset)
        layer.load_state_dict({**conv.state_dict(), "coord_weight": layer.coord_weight})
        if is_channels_last(conv.weight) and not conv.weight.is_contiguous():
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, parameter in conv.named_parameters():
            layer.get_parameter(name).requires_grad_(parameter.requires_grad)
        return layer.train(conv.training)

    def _split(self, concat: Tensor) -> tuple[Tensor, Tensor]:
        split = self.in_channels // self.groups
        return concat[:, :split], concat[:, split:]

    def _concat(self, image: Tensor, coords: Tensor) -> Tensor:
        return torch.cat([image, coords], 1)

    def forward(self, input: Tensor) -> Tensor:
        """
        Return ``conv(concat(input, coord_scale * coordinates))``.

        :param input: ``(batch, in_channels, height, width)`` or without the batch
        :return: ``(batch, out_channels, out_height, out_width)`` or without the batch
        """
        out = self._conv_forward(input, self.weight, self.bias)
        options = (input.shape[-2:], self.stride, self.padding, self.dilation, self.coord_scale)
        return self._cached.add(out, self.coord_weight, options, self._factors, self._multiply)

    def positional_bias(self, height: int, width: int) -> Tensor:
        """
        Return what each filter adds where, for images of this size; the bias is not in it.

        :param height: Of the input
        :param width: Of the input
        :return: ``(out_channels, out_height, out_width)``
        """
        like: Any = {"device": "meta", "dtype": self.coord_weight.dtype}
        image = torch.empty(self.in_channels, height, width, **like)
        out = self._conv_forward(image, self.weight.to("meta"), None)
        with torch.autocast(self.coord_weight.device.type, enabled=False):
            return self._multiply(out, self._factors(out, image.shape[-2:]))

    def _multiply(self, out: Tensor, factors: tuple[Tensor, ...]) -> Tensor:
        """
        Return the positional term as :meth:`~.positional.PositionalTerm.add` takes it.

        Matrix products, as a convolution of two channels would cost several times as much; weights as they
        lie in memory and the term in the output's order, so that neither they nor gradients are copied.

        :param out: What it is to be added to
        :param factors: Of :meth:`_factors`
        """
        coords = self.coord_weight
        taps_last = is_channels_last(coords)
        if is_channels_last(out):
            term = (coords.permute(2, 3, 1, 0) if taps_last else coords.permute(1, 2, 3, 0)).flatten(0, 2)
            for factor in factors:
                term = factor @ term
            term = term.view(*out.shape[2:], -1)
        else:
            term = (coords.permute(0, 2, 3, 1) if taps_last else coords).flatten(1)
            for factor in factors:
                term = term @ factor
            term = term.view(out.shape[-3:])
        return term if term.dtype == out.dtype else term.to(out.dtype)

    def _factors(self, out: Tensor, size: torch.Size, *options: Any) -> tuple[Tensor, ...]:
        """
        Return what the weight is multiplied by, one after the other: scaled coordinates under every window.

        :param out: What the term is to be added to
        :param size: Height and width of the input
        :param options: What else they depend on
        :return: ``(taps, 3)`` and ``(3, out_height * out_width)`` where their product is the patches, else
            the patches; transposed where ``out`` is ``channels_last``
        """
        patches = self._patches(size)
        is_affine = not self.with_r and not any(_pads(self.padding)) and len(patches) > 3
        factors = affine_factors(patches, *out.shape[-2:]) if is_affine else (patches,)
        return tuple(factor.T.contiguous() for factor in factors) if is_channels_last(out) else factors

    def _patches(self, size: torch.Size) -> Tensor:
        """
        Return the scaled coordinates under every window, in the order of the weights in memory.

        :return: ``(coordinate channels * kernel height * kernel width, out_height * out_width)``
        """
        coords = self.coord_weight
        channels = coordinate_map(size[0], size[1], self.with_r, coords.device, coords.dtype)
        taps = coords[0].numel()
        pick = torch.eye(taps, dtype=coords.dtype, device=coords.device).view(taps, *coords.shape[1:])
        repeated = channels.repeat(self.groups, 1, 1)[None]
        picked = self._conv_forward(repeated, pick.repeat(self.groups, 1, 1, 1), None)[0, :taps]
        patches = picked.flatten(1) * self.coord_scale
        if is_channels_last(coords):
            patches = patches.unflatten(0, coords.shape[1:]).permute(1, 2, 0, 3).flatten(0, 2)
        return patches


def _pads(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    return {"valid": (0,), "same": (1,)}[padding] if isinstance(padding, str) else padding
