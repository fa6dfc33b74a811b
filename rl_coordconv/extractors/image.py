"""What extractors share: convolutions are given coordinates, features made of the last map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rl_coordconv.errors import UserError, choose
from rl_coordconv.layers import CoordConv2d, CoordInit, CoordScale

Pool = Literal["average", "max"]
POOLS: dict[str, type[nn.Module]] = {"average": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}


def see_coordinates(
    module: nn.Module,
    coord_layers: Sequence[int],
    with_r: bool = False,
    coord_init: CoordInit = "zeros",
    coord_scale: CoordScale = "window",
) -> None:
    """
    Let some of a network's convolutions see coordinates; what they have learned on images stays.

    :param module: The network; it is changed in place
    :param coord_layers: Which of its convolutions, numbered from 0 in the order of the forward pass
    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: As in :class:`~rl_coordconv.layers.CoordConv2d`
    :param coord_scale: As in :class:`~rl_coordconv.layers.CoordConv2d`
    :raises UserError: There is no such convolution, one is named twice or sees coordinates already, or an
        option is not allowed
    """
    convs = [name for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
    if not isinstance(coord_layers, (Sequence, np.ndarray)):
        raise UserError(f"coord_layers is {coord_layers}: give a list, e.g. [{coord_layers}]")
    chosen = [int(index) if isinstance(index, np.integer) else index for index in coord_layers]
    allowed = all(type(index) is int and 0 <= index < len(convs) for index in chosen)
    if not allowed or len(set(chosen)) < len(chosen):
        raise UserError(f"coord_layers is {chosen}: use different numbers from 0 to {len(convs) - 1}")
    layers = {}
    with torch.random.fork_rng(devices=[]):
        for index in chosen:
            conv = module.get_submodule(convs[index])
            assert isinstance(conv, nn.Conv2d)
            layers[convs[index]] = CoordConv2d.from_conv(conv, with_r, coord_init, coord_scale)
            # from_conv leaves the random state as it was, and the next layer is to draw other numbers.
            torch.rand(())
    for path, layer in layers.items():  # once all are made, as one may be refused
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, layer)


class ImageExtractor(BaseFeaturesExtractor):
    """
    Convolutions, then flatten or pool over space, then a linear layer, as in ``NatureCNN``.

    :param observation_space: Image space, channels first
    :param features_dim: Number of features extracted
    :param network: Returns the layers up to the last activation for so many channels of the images
    :param pool: ``max`` or ``average`` over each map of the last convolution, or None to flatten them
    :param normalized_image: As in SB3: the images are floats already
    :param coordinates: Arguments of :func:`see_coordinates` after the network
    :raises UserError: The images are too small for the network, or an option is not allowed
    """

    def __init__(
        self,
        observation_space: gym.Space,
        features_dim: int,
        network: Callable[[int], list[nn.Module]],
        pool: Pool | None,
        normalized_image: bool,
        coordinates: tuple[Sequence[int], bool, CoordInit, CoordScale],
    ) -> None:
        channels = _image_channels(observation_space, normalized_image, type(self).__name__)
        super().__init__(observation_space, features_dim)
        pools: list[nn.Module] = [] if pool is None else [POOLS[pool](1)]
        self.cnn = nn.Sequential(*network(channels), *pools, nn.Flatten())
        image = torch.zeros(1, *(observation_space.shape or ()))
        with torch.no_grad():
            try:
                n_flatten = self.cnn(image).shape[1]
            except RuntimeError:
                size = " x ".join(map(str, image.shape[-2:]))
                raise UserError(f"{type(self).__name__} needs larger images than {size}") from None
        self.linear = nn.Sequential(nn.Linear(n_flatten, features_dim), nn.ReLU())
        see_coordinates(self.cnn, *coordinates)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """
        Return features.

        :param observations: ``(batch, channels, height, width)`` float32, as SB3's policy scales them
        :return: ``(batch, features_dim)`` float32
        """
        return self.linear(self.cnn(observations))


def _image_channels(observation_space: gym.Space, normalized_image: bool, extractor: str) -> int:
    """Return the channels of an image space, or fail as SB3's ``NatureCNN`` does."""
    assert isinstance(observation_space, spaces.Box) and is_image_space(  # noqa: PT018
        observation_space, check_channels=False, normalized_image=normalized_image
    ), (
        f"You should use {extractor} only with images not with {observation_space}\n"
        "(you are probably using `CnnPolicy` instead of `MlpPolicy` or `MultiInputPolicy`)\n"
        "If you are using already normalized channel-first images you should pass "
        "`normalize_images=False` to the policy and `normalized_image=True` to the extractor: \n"
        "https://stable-baselines3.readthedocs.io/en/master/guide/custom_env.html"
    )
    return observation_space.shape[0]


def check_pool(pool: Pool) -> Pool:
    """Return how to pool over space, or say what there is."""
    choose("pool", pool, POOLS)
    return pool


def check_width(width: int) -> int:
    """Return a factor on channels, or say what is wrong with it."""
    if type(width) is not int or width < 1:
        raise UserError(f"width is {width!r}: it must be a whole number of 1 or more")
    return width
