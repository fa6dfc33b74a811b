"""SB3 features extractors in which chosen convolutions see coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from torch import nn

from rl_coordconv.errors import UserError
from rl_coordconv.layers import CoordConv2d, CoordConvTranspose2d


def add_coordinates(module: nn.Module, coord_layers: Sequence[int], with_r: bool) -> None:
    """
    Let some of a network's convolutions see coordinates, initialised as PyTorch initialises any convolution.

    :param module: The network; it is changed in place
    :param coord_layers: Which of its convolutions, numbered from 0 in the order of the forward pass
    :param with_r: Add the distance from the centre as a third coordinate
    :raises UserError: There is no such convolution, or one is named twice
    """
    convs = [name for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
    chosen = list(coord_layers)
    allowed = all(isinstance(index, int) and 0 <= index < len(convs) for index in chosen)
    if not allowed or len(set(chosen)) < len(chosen):
        raise UserError(f"coord_layers is {chosen}: use different numbers from 0 to {len(convs) - 1}")
    for index in chosen:
        parent, _, name = convs[index].rpartition(".")
        conv = module.get_submodule(convs[index])
        assert isinstance(conv, nn.Conv2d)
        layer = CoordConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            with_r=with_r,
        )
        setattr(module.get_submodule(parent), name, layer)


def coord_weight_ratios(module: nn.Module) -> dict[str, float]:
    """
    Return how much of each CoordConv layer's weight norm sits on coordinates, by the layer's name.

    An extractor that actor and critic share is named once, as inside of the extractor: ``cnn.0``.

    :param module: E.g. an SB3 policy
    """
    layers = (CoordConv2d, CoordConvTranspose2d)
    return {
        name.removeprefix("features_extractor."): layer.coord_weight_ratio()
        for name, layer in module.named_modules()
        if isinstance(layer, layers)
    }


class CoordConvNatureCNN(NatureCNN):
    """
    SB3's ``NatureCNN`` (Mnih et al. 2015) with CoordConv; with ``coord_layers=()`` the same bit for bit.

    SB3 puts two hidden layers of 64 behind every extractor but its own ``NatureCNN``: pass ``net_arch=[]`` in
    ``policy_kwargs`` for the network that ``CnnPolicy`` has by default.

    :param observation_space: Image space, channels first
    :param features_dim: Number of features extracted
    :param coord_layers: Which of the three convolutions see coordinates
    :param with_r: Add the distance from the centre as a third coordinate
    :param normalized_image: As in SB3: the images are floats already
    :raises UserError: ``coord_layers`` names a convolution that is not there
    """

    def __init__(
        self,
        observation_space: gym.Space,
        features_dim: int = 512,
        coord_layers: Sequence[int] = (0,),
        with_r: bool = False,
        normalized_image: bool = False,
    ) -> None:
        super().__init__(observation_space, features_dim, normalized_image)
        add_coordinates(self.cnn, coord_layers, with_r)


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


class CoordConvImpalaCNN(BaseFeaturesExtractor):
    """
    The 15-layer residual network of IMPALA (Espeholt et al. 2018, arXiv:1802.01561, figure 3) with CoordConv.

    With ``coord_layers=()`` it is the plain network.

    :param observation_space: Image space, channels first
    :param features_dim: Number of features extracted
    :param coord_layers: Which of the 15 convolutions see coordinates
    :param with_r: Add the distance from the centre as a third coordinate
    :param normalized_image: As in SB3: the images are floats already
    :param channels: Channels of the three stages
    :raises UserError: ``coord_layers`` names a convolution that is not there
    """

    def __init__(
        self,
        observation_space: gym.Space,
        features_dim: int = 256,
        coord_layers: Sequence[int] = (0,),
        with_r: bool = False,
        normalized_image: bool = False,
        channels: Sequence[int] = (16, 32, 32),
    ) -> None:
        super().__init__(observation_space, features_dim)
        assert isinstance(observation_space, spaces.Box) and is_image_space(  # noqa: PT018
            observation_space, check_channels=False, normalized_image=normalized_image
        ), (
            f"You should use CoordConvImpalaCNN only with images not with {observation_space}\n"
            "(you are probably using `CnnPolicy` instead of `MlpPolicy` or `MultiInputPolicy`)\n"
            "If you are using already normalized channel-first images you should pass "
            "`normalize_images=False` to the policy and `normalized_image=True` to the extractor: \n"
            "https://stable-baselines3.readthedocs.io/en/master/guide/custom_env.html"
        )
        layers: list[nn.Module] = []
        before = observation_space.shape[0]
        for after in channels:
            layers += [
                nn.Conv2d(before, after, kernel_size=3, padding=1),
                nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
                ResidualBlock(after),
                ResidualBlock(after),
            ]
            before = after
        self.cnn = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())
        add_coordinates(self.cnn, coord_layers, with_r)
        with torch.no_grad():
            n_flatten = self.cnn(torch.as_tensor(observation_space.sample()[None]).float()).shape[1]
        self.linear = nn.Sequential(nn.Linear(n_flatten, features_dim), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """
        Return features.

        :param observations: ``(batch, channels, height, width)`` float32, as SB3's policy scales them
        :return: ``(batch, features_dim)`` float32
        """
        return self.linear(self.cnn(observations))


class CoordConvCombinedExtractor(CombinedExtractor):
    """
    SB3's ``CombinedExtractor`` for Dict observations, whose images go through ``CoordConvNatureCNN``.

    :param observation_space: Dict space; images channels first
    :param cnn_output_dim: Number of features of each image
    :param normalized_image: As in SB3: the images are floats already
    :param coord_layers: Which of the three convolutions see coordinates
    :param with_r: Add the distance from the centre as a third coordinate
    :raises UserError: ``coord_layers`` names a convolution that is not there
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        cnn_output_dim: int = 256,
        normalized_image: bool = False,
        coord_layers: Sequence[int] = (0,),
        with_r: bool = False,
    ) -> None:
        super().__init__(observation_space, cnn_output_dim, normalized_image)
        for extractor in self.extractors.values():
            if isinstance(extractor, NatureCNN):
                add_coordinates(extractor.cnn, coord_layers, with_r)
