"""The maps that an agent's CoordConv layers add to their outputs, as numbers and as a picture."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from rl_coordconv.coordinates import coordinate_layers


def bias_maps(policy: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Tensor]:
    """
    Return the map that each filter of each CoordConv layer adds, by the layer's name.

    :param policy: An SB3 policy
    :param image_shape: Of one observation, ``(channels, height, width)``
    :return: Tensors ``(filters, out_height, out_width) float32`` on the CPU
    """
    layers = coordinate_layers(policy)
    sizes: dict[str, torch.Size] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], name: str) -> None:
        sizes[name] = inputs[0].shape[-2:]

    hooks = [
        layer.register_forward_pre_hook(functools.partial(note, name=name)) for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            for extractor in [part for part in policy.modules() if isinstance(part, BaseFeaturesExtractor)]:
                if any(module in layers.values() for module in extractor.modules()):
                    extractor(torch.zeros(1, *image_shape, device=next(extractor.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        return {
            name: layers[name].positional_bias(*size).float().cpu().clone()  # type: ignore[operator]
            for name, size in sizes.items()
        }


def bias_picture(maps: Tensor, cell: int = 42) -> np.ndarray:
    """
    Return maps side by side: red adds, blue subtracts, white does nothing; one scale for all.

    :param maps: ``(filters, height, width) float32``
    :param cell: About how many pixels wide a map is shown
    :return: ``(rows, columns, 3) uint8``
    """
    n, height, width = maps.shape
    scaled = (maps / maps.abs().max().clamp_min(1e-12)).numpy()
    colour = np.stack([1 + np.minimum(scaled, 0), 1 - np.abs(scaled), 1 - np.maximum(scaled, 0)], axis=-1)
    factor = max(1, cell // max(height, width))
    tiles = (255 * colour).astype(np.uint8).repeat(factor, 1).repeat(factor, 2)
    tiles = np.pad(tiles, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128)
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    tiles = np.concatenate([tiles, np.full((rows * columns - n, *tiles.shape[1:]), 128, np.uint8)])
    grid = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2)
    return grid.reshape(rows * tiles.shape[1], columns * tiles.shape[2], 3)
