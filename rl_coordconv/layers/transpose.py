"""``torch.nn.ConvTranspose2d`` with coordinates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_coordconv.layers.base import CoordConvLayer
from rl_coordconv.layers.coords import coordinate_map
from rl_coordconv.layers.positional import is_channels_last


class CoordConvTranspose2d(CoordConvLayer, nn.ConvTranspose2d):
    """
    A ``torch.nn.ConvTranspose2d`` that sees where it is (paper section 3), by its input's coordinates.

    Arguments are those of ``torch.nn.ConvTranspose2d``, plus those of :class:`CoordConv2d`. ``weight`` is
    that of ``torch.nn.ConvTranspose2d``; ``coord_weight`` has the shape
    ``(groups * (2 or 3), out_channels / groups, kernel height, kernel width)``.

    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: ``concat`` draws ``coord_weight`` as the literal concat layer would, ``zeros`` starts
        as exactly the plain layer
    :param coord_scale: Factor on the coordinates; ``window``: one over the window's pixels; ``root``: one
        over their root
    :raises UserError: ``coord_init`` or ``coord_scale`` is not allowed
    """

    _plain = nn.ConvTranspose2d

    def _split(self, concat: Tensor) -> tuple[Tensor, Tensor]:
        grouped = concat.unflatten(0, (self.groups, -1))
        split = self.in_channels // self.groups
        return grouped[:, :split].flatten(0, 1), grouped[:, split:].flatten(0, 1)

    def _concat(self, image: Tensor, coords: Tensor) -> Tensor:
        parts = [part.unflatten(0, (self.groups, -1)) for part in (image, coords)]
        return torch.cat(parts, 1).flatten(0, 1)

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """
        Return ``conv_transpose(concat(input, coord_scale * coordinates))``.

        :param input: ``(batch, in_channels, height, width)`` or without the batch
        :param output_size: As in ``torch.nn.ConvTranspose2d``
        :return: ``(batch, out_channels, out_height, out_width)`` or without the batch
        """
        sizes: Any = (self.stride, self.padding, self.kernel_size, 2, self.dilation)
        output_padding = self._output_padding(input, output_size, *sizes)
        size, padding = input.shape[-2:], tuple(output_padding)
        out = self._transposed(input, self.weight, self.bias, padding)
        options = (size, padding, self.stride, self.padding, self.dilation, self.coord_scale)

        def multiply(out: Tensor, channels: Tensor) -> Tensor:
            term = self._transposed(channels, self.coord_weight, None, padding).to(out.dtype)
            return term.permute(1, 2, 0) if is_channels_last(out) else term

        return self._cached.add(out, self.coord_weight, options, self._channels, multiply)

    def positional_bias(self, height: int, width: int) -> Tensor:
        """
        Return what each filter adds where, for images of this size; the bias is not in it.

        :param height: Of the input
        :param width: Of the input
        :return: ``(out_channels, out_height, out_width)``
        """
        channels = self._channels(self.coord_weight, torch.Size((height, width)))
        with torch.autocast(self.coord_weight.device.type, enabled=False):
            return self._transposed(channels, self.coord_weight, None, self.output_padding)

    def _channels(self, out: Tensor, size: torch.Size, *options: Any) -> Tensor:
        """
        Return the scaled coordinates that each group sees.

        :param size: Height and width of the input
        :return: ``(groups * (2 or 3), height, width)``
        """
        coords = self.coord_weight
        channels = coordinate_map(size[0], size[1], self.with_r, coords.device, coords.dtype)
        return channels.repeat(self.groups, 1, 1) * self.coord_scale

    def _transposed(
        self, images: Tensor, weight: Tensor, bias: Tensor | None, output_padding: tuple[int, ...]
    ) -> Tensor:
        stride: Any = self.stride
        padding: Any = self.padding
        dilation: Any = self.dilation
        return F.conv_transpose2d(
            images, weight, bias, stride, padding, output_padding, self.groups, dilation
        )
