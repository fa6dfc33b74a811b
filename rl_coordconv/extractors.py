"""
SB3 features extractors in which chosen convolutions see coordinates, and the table of their names.

``EXTRACTORS`` is where an extractor is registered, one of your own as well::

    EXTRACTORS["mine"] = Extractor(MyExtractor)

Names ending in ``-pool`` average or take the maximum over space where the others flatten: such a network has
thrown position away, so that coordinates are what brings it back, and has 10 to 20 times fewer parameters.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from torch import nn

from rl_coordconv.errors import UserError, choose, nearest
from rl_coordconv.layers import CoordConv2d, CoordInit, CoordScale

Pool = Literal["average", "max"]
POOLS = ("average", "max")


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
    :raises UserError: There is no such convolution, one is named twice, or an option is not allowed
    """
    convs = [name for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
    chosen = list(coord_layers) if isinstance(coord_layers, Sequence) else [coord_layers]
    allowed = all(type(index) is int and 0 <= index < len(convs) for index in chosen)
    if not allowed or len(set(chosen)) < len(chosen):
        raise UserError(f"coord_layers is {chosen}: use different numbers from 0 to {len(convs) - 1}")
    for index in chosen:
        parent, _, name = convs[index].rpartition(".")
        conv = module.get_submodule(convs[index])
        assert isinstance(conv, nn.Conv2d)
        layer = CoordConv2d.from_conv(conv, with_r, coord_init, coord_scale)
        setattr(module.get_submodule(parent), name, layer)


class CoordConvNatureCNN(NatureCNN):
    """
    SB3's ``NatureCNN`` (Mnih et al. 2015) with CoordConv; with ``coord_layers=()`` the same bit for bit.

    SB3 puts two hidden layers of 64 behind every extractor but its own ``NatureCNN``: :func:`policy_kwargs`
    leaves them out, for the network that ``CnnPolicy`` has by default.

    :param observation_space: Image space, channels first
    :param features_dim: Number of features extracted
    :param coord_layers: Which of the three convolutions see coordinates
    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: ``zeros`` starts as the plain network, ``concat`` as the paper's literal layer
    :param coord_scale: Factor on the coordinates, or ``window`` for one over the pixels of a window
    :param normalized_image: As in SB3: the images are floats already
    :raises UserError: ``coord_layers`` names a convolution that is not there, or an option is not allowed
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
        super().__init__(observation_space, features_dim, normalized_image)
        see_coordinates(self.cnn, coord_layers, with_r, coord_init, coord_scale)


class CoordConvCombinedExtractor(CombinedExtractor):
    """
    SB3's ``CombinedExtractor`` for Dict observations, whose images go through ``CoordConvNatureCNN``.

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
        super().__init__(observation_space, cnn_output_dim, normalized_image)
        for extractor in self.extractors.values():
            if isinstance(extractor, NatureCNN):
                see_coordinates(extractor.cnn, coord_layers, with_r, coord_init, coord_scale)


class ImageExtractor(BaseFeaturesExtractor):
    """
    Convolutions, then flatten or pool over space, then a linear layer, as in ``NatureCNN``.

    :param observation_space: Image space, channels first
    :param features_dim: Number of features extracted
    :param convolutions: The network up to its last activation
    :param head: What makes a vector of the last map
    :param normalized_image: As in SB3: the images are floats already
    :raises UserError: The images are too small for the network
    """

    def __init__(
        self,
        observation_space: gym.Space,
        features_dim: int,
        convolutions: list[nn.Module],
        head: list[nn.Module],
        normalized_image: bool,
    ) -> None:
        super().__init__(observation_space, features_dim)
        self.cnn = nn.Sequential(*convolutions, *head, nn.Flatten())
        image = torch.zeros(1, *(observation_space.shape or ()))
        with torch.no_grad():
            try:
                n_flatten = self.cnn(image).shape[1]
            except RuntimeError:
                size = " x ".join(map(str, image.shape[-2:]))
                raise UserError(f"{type(self).__name__} needs larger images than {size}") from None
        self.linear = nn.Sequential(nn.Linear(n_flatten, features_dim), nn.ReLU())

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


def _pooling(pool: Pool) -> list[nn.Module]:
    choose("pool", pool, POOLS)
    return [nn.AdaptiveMaxPool2d(1) if pool == "max" else nn.AdaptiveAvgPool2d(1)]


def _check_width(width: int) -> int:
    if type(width) is not int or width < 1:
        raise UserError(f"width is {width!r}: it must be a whole number of 1 or more")
    return width


class CoordConvNaturePool(ImageExtractor):
    """
    The convolutions of ``NatureCNN``, pooled over space, with CoordConv: 112 k parameters instead of 1.68 M.

    With ``coord_layers=()`` it is the plain network, which cannot tell where in the image anything is.

    :param observation_space: Image space, channels first
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
        channels = _image_channels(observation_space, normalized_image, type(self).__name__)
        wide, wider = 32 * _check_width(width), 64 * width
        convolutions = [
            nn.Conv2d(channels, wide, kernel_size=8, stride=4),
            nn.ReLU(),
            nn.Conv2d(wide, wider, kernel_size=4, stride=2),
            nn.ReLU(),
            nn.Conv2d(wider, wider, kernel_size=3, stride=1),
            nn.ReLU(),
        ]
        super().__init__(observation_space, features_dim, convolutions, _pooling(pool), normalized_image)
        see_coordinates(self.cnn, coord_layers, with_r, coord_init, coord_scale)


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


def _impala(channels: int, width: int) -> list[nn.Module]:
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

    With ``coord_layers=()`` it is the plain network.

    :param observation_space: Image space, channels first
    :param features_dim: Number of features extracted
    :param coord_layers: Which of the 15 convolutions see coordinates
    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: As in :class:`CoordConvNatureCNN`
    :param coord_scale: As in :class:`CoordConvNatureCNN`
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
        channels = _image_channels(observation_space, normalized_image, type(self).__name__)
        stages = _impala(channels, _check_width(width))
        super().__init__(observation_space, features_dim, stages, [], normalized_image)
        see_coordinates(self.cnn, coord_layers, with_r, coord_init, coord_scale)


class CoordConvImpalaPool(ImageExtractor):
    """
    IMPALA's network pooled over space (Impoola, Trumpp et al. 2025, arXiv:2503.05546) with CoordConv.

    With ``coord_layers=()`` it is the plain network.

    :param observation_space: Image space, channels first
    :param features_dim: Number of features extracted
    :param coord_layers: Which of the 15 convolutions see coordinates
    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_init: As in :class:`CoordConvNatureCNN`
    :param coord_scale: As in :class:`CoordConvNatureCNN`
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
        channels = _image_channels(observation_space, normalized_image, type(self).__name__)
        stages = _impala(channels, _check_width(width))
        super().__init__(observation_space, features_dim, stages, _pooling(pool), normalized_image)
        see_coordinates(self.cnn, coord_layers, with_r, coord_init, coord_scale)


@dataclasses.dataclass(frozen=True)
class Extractor:
    """
    An entry of :data:`EXTRACTORS`.

    :param cls: SB3 features extractor
    :param fixed: Arguments that the name stands for, e.g. no coordinates
    """

    cls: type[BaseFeaturesExtractor]
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments that a user may give."""
        hidden = {"self", "observation_space", "normalized_image", *self.fixed}
        if "coord_layers" in self.fixed:
            hidden |= {"with_r", "coord_init", "coord_scale"}
        return tuple(name for name in inspect.signature(self.cls.__init__).parameters if name not in hidden)

    @property
    def defaults(self) -> dict[str, Any]:
        """What those arguments are where a user gives none, as plain values."""
        found = inspect.signature(self.cls.__init__).parameters
        values = {name: found[name].default for name in self.options}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


EXTRACTORS: dict[str, Extractor] = {
    "cnn": Extractor(NatureCNN),
    "coordconv": Extractor(CoordConvNatureCNN),
    "nature-pool": Extractor(CoordConvNaturePool, {"coord_layers": ()}),
    "coordconv-nature-pool": Extractor(CoordConvNaturePool),
    "impala": Extractor(CoordConvImpalaCNN, {"coord_layers": ()}),
    "coordconv-impala": Extractor(CoordConvImpalaCNN),
    "impala-pool": Extractor(CoordConvImpalaPool, {"coord_layers": ()}),
    "coordconv-impala-pool": Extractor(CoordConvImpalaPool),
}
"""All extractors by the name that configs and command lines use."""


def policy_kwargs(extractor: str = "coordconv", **options: Any) -> dict[str, Any]:
    """
    Return the ``policy_kwargs`` with which an SB3 algorithm gets an extractor.

    With them the network has no hidden layers behind the features, as SB3's ``CnnPolicy`` has it by default.

    :param extractor: A name of :data:`EXTRACTORS`
    :param options: Arguments of its class, e.g. ``coord_layers=[0, 1]``
    :raises UserError: There is no such extractor, or it has no such option
    """
    entry = EXTRACTORS[choose("extractor", extractor, EXTRACTORS)]
    for name in options:
        if name not in entry.options:
            hint = nearest(name, entry.options)
            raise UserError(
                f"extractor '{extractor}' has no option '{name}': it takes {', '.join(entry.options)}{hint}"
            )
    return {
        "features_extractor_class": entry.cls,
        "features_extractor_kwargs": {**entry.fixed, **options},
        "net_arch": [],
    }
