"""The literal concat of the paper, written down plainly, to compare layers with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rl_coordconv.layers import CoordConv2d, CoordConvTranspose2d


def plain_coordinates(height: int, width: int, with_r: bool) -> Tensor:
    """Coordinates by hand, in float64, pixel by pixel."""
    out = np.zeros((3, height, width))
    for i in range(height):
        for j in range(width):
            x = 2 * j / (width - 1) - 1 if width > 1 else 0.0
            y = 2 * i / (height - 1) - 1 if height > 1 else 0.0
            out[:, i, j] = x, y, np.hypot(x, y)
    return torch.from_numpy(out[: 3 if with_r else 2])


def literal_input(layer: CoordConv2d | CoordConvTranspose2d, images: Tensor) -> Tensor:
    """Each group of channels followed by coordinates, as the paper draws it."""
    coords = plain_coordinates(*images.shape[-2:], layer.with_r).to(images.dtype)
    coords = coords.expand(images.shape[0], -1, -1, -1)
    return torch.cat([part for group in images.chunk(layer.groups, 1) for part in (group, coords)], 1)


def literal(layer: CoordConv2d | CoordConvTranspose2d, images: Tensor) -> Tensor:
    """The literal concat with PyTorch's own layer and the same weight."""
    channels = layer.in_channels + layer.groups * (3 if layer.with_r else 2)
    shared = (channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
    kwargs = {"groups": layer.groups, "bias": layer.bias is not None, "dilation": layer.dilation}
    twin: nn.Module
    if isinstance(layer, CoordConv2d):
        twin = nn.Conv2d(*shared, **kwargs, padding_mode=layer.padding_mode)
    else:
        twin = nn.ConvTranspose2d(*shared, output_padding=layer.output_padding, **kwargs)
    parameters = {"weight": layer.concat_weight()} | ({} if layer.bias is None else {"bias": layer.bias})
    assert {name: p.shape for name, p in twin.named_parameters()} == {
        name: p.shape for name, p in parameters.items()
    }
    return torch.func.functional_call(twin, parameters, literal_input(layer, images))


def layer_and_images(**kwargs) -> tuple[CoordConv2d, Tensor]:
    torch.manual_seed(0)
    return CoordConv2d(3, 4, 3, padding=1, **kwargs), torch.randn(2, 3, 6, 9)
