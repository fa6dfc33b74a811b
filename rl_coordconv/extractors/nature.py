"""The network of Mnih et al. 2015 with CoordConv: as SB3 has it, for Dict observations, and pooled."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from torch import nn

from rl_coordconv.errors import UserError
from rl_coordconv.extractors.image import ImageExtractor, Pool, check_pool, check_width, see_coordinates
from rl_coordconv.layers import CoordInit, CoordScale

NATURE_SMALLEST = 36
"""Pixels that the three convolutions of Mnih et al. 2015 need to leave one."""


class CoordConvNatureCNN(NatureCNN):
    """
    SB3's ``NatureCNN`` (Mnih et al. 2015) with CoordConv; with ``coord_layers=()`` the same bit for bit.

    Takes ``(batch, channels, height, width)`` float32, as SB3's policy scales images, and gives
    ``(batch, features_dim)`` float32. SB3 puts two hidden layers of 64 behind every extractor but its own
    ``NatureCNN``: :func:`policy_kwargs` leaves them out, for the network that ``CnnPolicy`` has by default.

    :param observation_space: Images, channels first: ``Box(0, 255, (channels, height, width), uint8)``
    :param features_dim: Number of features extracted
    :param coord_layers: Which of the three convolutions see coordinates
    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: ``zeros`` starts as the plain network, ``concat`` as the paper's literal layer
    :param coord_scale: Factor on the coordinates; ``window`` (one over a window's pixels) for Adam, ``root``
        (one over their root) for A2C's RMSprop
    :param normalized_image: As in SB3: the images are floats already
    :raises UserError: ``coord_layers`` names a convolution that is not there, or an option is not allowed
    :raises AssertionError: As SB3's: the observations are no images
    """

    def __init__(
        self,
        observation_space: gym.Space,
        features_dim: int = 512,
        coord_layers: Sequence[int] = (0,),
        with_r: bool = False,
        coord_init: CoordInit = "zeros",
        coord_scale: CoordScale = "window",
        normalized_image: bool = False,
    ) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise UserError("for Dict observations give CoordConvCombinedExtractor, and MultiInputPolicy")
        shape = observation_space.shape or ()
        if len(shape) == 3 and min(shape[1:]) < NATURE_SMALLEST:
            raise UserError(
                f"CoordConvNatureCNN needs images of {NATURE_SMALLEST} x {NATURE_SMALLEST} or more, channels "
                f"first, not {shape[1]} x {shape[2]}"
            )
        super().__init__(observation_space, features_dim, normalized_image)
        see_coordinates(self.cnn, coord_layers, with_r, coord_init, coord_scale)


class CoordConvCombinedExtractor(CombinedExtractor):
    """
    SB3's ``CombinedExtractor`` for Dict observations, whose images go through ``CoordConvNatureCNN``.

    Gives ``(batch, images * cnn_output_dim + sizes of the vectors)`` float32.

    :param observation_space: Dict space; images channels first
    :param cnn_output_dim: Number of features of each image
    :param normalized_image: As in SB3: the images are floats already
    :param coord_layers: Which of the three convolutions see coordinates
    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: As in :class:`CoordConvNatureCNN`
    :param coord_scale: As in :class:`CoordConvNatureCNN`
    :raises UserError: ``coord_layers`` names a convolution that is not there, or an option is not allowed
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        cnn_output_dim: int = 256,
        normalized_image: bool = False,
        coord_layers: Sequence[int] = (0,),
        with_r: bool = False,
        coord_init: CoordInit = "zeros",
        coord_scale: CoordScale = "window",
    ) -> None:
        if not isinstance(observation_space, spaces.Dict):
            raise UserError("CoordConvCombinedExtractor is for Dict observations: give CoordConvNatureCNN")
        super().__init__(observation_space, cnn_output_dim, normalized_image)
        networks = [part.cnn for part in self.extractors.values() if isinstance(part, NatureCNN)]
        if not networks:
            raise UserError(f"CoordConvCombinedExtractor needs an image among {', '.join(observation_space)}")
        for network in networks:
            see_coordinates(network, coord_layers, with_r, coord_init, coord_scale)


class CoordConvNaturePool(ImageExtractor):
    """
    The convolutions of ``NatureCNN`` (Mnih et al. 2015), pooled over space, with CoordConv: 112 k parameters.

    ``NatureCNN`` has 1.68 M; pooling it is this package's. Shapes as in :class:`CoordConvNatureCNN`.
    With ``coord_layers=()`` it is the plain network, which can tell where something is only by how much of it
    the 36 x 36 windows of its last convolution see at the borders of the image.

    :param observation_space: Images, channels first: ``Box(0, 255, (channels, height, width), uint8)``
    :param features_dim: Number of features extracted
    :param coord_layers: Which of the three convolutions see coordinates
    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: As in :class:`CoordConvNatureCNN`
    :param coord_scale: As in :class:`CoordConvNatureCNN`
    :param pool: ``max`` or ``average`` over each map of the last convolution
    :param width: Factor on the 32, 64 and 64 channels
    :param normalized_image: As in SB3: the images are floats already
    :raises UserError: An option is not allowed, or the images are too small
    """

    def __init__(
        self,
        observation_space: gym.Space,
        features_dim: int = 512,
        coord_layers: Sequence[int] = (2,),
        with_r: bool = False,
        coord_init: CoordInit = "zeros",
        coord_scale: CoordScale = "window",
        pool: Pool = "max",
        width: int = 1,
        normalized_image: bool = False,
    ) -> None:
        def network(channels: int) -> list[nn.Module]:
            wide, wider = 32 * check_width(width), 64 * width
            return [
                nn.Conv2d(channels, wide, kernel_size=8, stride=4),
                nn.ReLU(),
                nn.Conv2d(wide, wider, kernel_size=4, stride=2),
                nn.ReLU(),
                nn.Conv2d(wider, wider, kernel_size=3, stride=1),
                nn.ReLU(),
            ]

        coordinates = (coord_layers, with_r, coord_init, coord_scale)
        pool = check_pool(pool)
        super().__init__(observation_space, features_dim, network, pool, normalized_image, coordinates)
