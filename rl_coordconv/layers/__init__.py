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

import torch
from torch import Tensor

from rl_coordconv.layers.base import COORD_INITS, CoordConvLayer, CoordInit, CoordScale
from rl_coordconv.layers.conv import CoordConv2d
from rl_coordconv.layers.coords import AddCoords, coordinate_map
from rl_coordconv.layers.transpose import CoordConvTranspose2d

__all__ = [
    "COORD_INITS",
    "AddCoords",
    "CoordConv2d",
    "CoordConvLayer",
    "CoordConvTranspose2d",
    "CoordInit",
    "CoordScale",
    "coordinate_map",
    "positional_bias",
]


def positional_bias(layer: CoordConv2d | CoordConvTranspose2d, height: int, width: int) -> Tensor:
    """
    Return the map that each filter of a layer adds to its output, whatever the image shows.

    :param layer: A CoordConv layer
    :param height: Pixels of the layer's input
    :param width: Pixels of the layer's input
    :return: ``(filters, out_height, out_width)`` of the layer's dtype, without bias and gradient
    """
    with torch.no_grad():
        return layer.positional_bias(height, width).clone()
