"""IMPALA's residual network with CoordConv, flattened as in its paper, or pooled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import gymnasium as gym
import torch
from torch import nn

from rl_coordconv.extractors.image import ImageExtractor, Pool, check_pool, check_width
from rl_coordconv.layers import CoordInit, CoordScale


class ResidualBlock(nn.Module):
    """
    Two convolutions around which the input passes by (Espeholt et al. 2018, figure 3).

    :param channels: Channels of input and output
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return an image of the same shape ``(batch, channels, height, width)``."""
        return images + self.block(images)


def stages(channels: int, width: int) -> list[nn.Module]:
    """Return IMPALA's three stages (Espeholt et al. 2018, figure 3)."""
    layers: list[nn.Module] = []
    for stage in (16, 32, 32):
        layers += [
            nn.Conv2d(channels, stage * width, kernel_size=3, padding=1),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            ResidualBlock(stage * width),
            ResidualBlock(stage * width),
        ]
        channels = stage * width
    return [*layers, nn.ReLU()]


class CoordConvImpalaCNN(ImageExtractor):
    """
    The 15-layer residual network of IMPALA (Espeholt et al. 2018, arXiv:1802.01561, figure 3) with CoordConv.

    With ``coord_layers=()`` it is the plain network. Shapes as in :class:`~.nature.CoordConvNatureCNN`.

    :param observation_space: Images, channels first: ``Box(0, 255, (channels, height, width), uint8)``
    :param features_dim: Number of features extracted
    :param coord_layers: Which of the 15 convolutions see coordinates
    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: As in :class:`~.nature.CoordConvNatureCNN`
    :param coord_scale: As in :class:`~.nature.CoordConvNatureCNN`
    :param width: Factor on the 16, 32 and 32 channels
    :param normalized_image: As in SB3: the images are floats already
    :raises UserError: ``coord_layers`` names a convolution that is not there, or an option is not allowed
    """

    def __init__(
        self,
        observation_space: gym.Space,
        features_dim: int = 256,
        coord_layers: Sequence[int] = (0,),
        with_r: bool = False,
        coord_init: CoordInit = "zeros",
        coord_scale: CoordScale = "window",
        width: int = 1,
        normalized_image: bool = False,
    ) -> None:
        network = partial(stages, width=check_width(width))
        coordinates = (coord_layers, with_r, coord_init, coord_scale)
        super().__init__(observation_space, features_dim, network, None, normalized_image, coordinates)


class CoordConvImpalaPool(ImageExtractor):
    """
    IMPALA's network pooled over space (Impoola, Trumpp et al. 2025, arXiv:2503.05546) with CoordConv.

    With ``coord_layers=()`` it is the plain network. Shapes as in :class:`~.nature.CoordConvNatureCNN`.

    :param observation_space: Images, channels first: ``Box(0, 255, (channels, height, width), uint8)``
    :param features_dim: Number of features extracted
    :param coord_layers: Which of the 15 convolutions see coordinates
    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: As in :class:`~.nature.CoordConvNatureCNN`
    :param coord_scale: As in :class:`~.nature.CoordConvNatureCNN`
    :param pool: ``max`` or ``average`` (Impoola's) over each map of the last convolution
    :param width: Factor on the 16, 32 and 32 channels
    :param normalized_image: As in SB3: the images are floats already
    :raises UserError: An option is not allowed
    """

    def __init__(
        self,
        observation_space: gym.Space,
        features_dim: int = 256,
        coord_layers: Sequence[int] = (14,),
        with_r: bool = False,
        coord_init: CoordInit = "zeros",
        coord_scale: CoordScale = "window",
        pool: Pool = "average",
        width: int = 1,
        normalized_image: bool = False,
    ) -> None:
        network = partial(stages, width=check_width(width))
        coordinates = (coord_layers, with_r, coord_init, coord_scale)
        pool = check_pool(pool)
        super().__init__(observation_space, features_dim, network, pool, normalized_image, coordinates)
