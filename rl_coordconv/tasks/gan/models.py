"""
Generators and discriminators for small colour images, plain and with CoordConv.

- ``plain``: DCGAN (Radford et al. 2016, arXiv:1511.06434) with the filters of Liu et al. 2018:
  a dense layer to 4×4, then 5×5 transposed convolutions of stride 2; the discriminator mirrors it.
- ``coordconv``: the same networks; each transposed convolution, and the discriminator's first one, sees
  coordinates. This isolates what coordinates do.
- ``coordconv-1x1``: the paper's CoordConv generator instead, another architecture altogether: the latent
  vector stands at every pixel beside the coordinates, 1×1 convolutions, then two 3×3. The discriminator is
  that of ``coordconv``.

At 64 pixels and ``width`` 64 the channels are the paper's.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from rl_coordconv.layers import CoordConv2d, CoordConvTranspose2d
from rl_coordconv.tasks.networks import he_weights

ARMS = ("plain", "coordconv", "coordconv-1x1")
IMAGE_SIZES = (16, 32, 64, 128)  # 4 pixels, doubled


def build_gan(
    arm: str, image_size: int, width: int, latent: int, init: str = "dcgan"
) -> tuple[nn.Module, nn.Module]:
    """
    Make both networks of an arm.

    :param arm: One of :data:`ARMS`
    :param image_size: Height and width of the images, one of :data:`IMAGE_SIZES`
    :param width: Channels of the layers next to the image; they double towards 4×4
    :param latent: Numbers in a latent vector
    :param init: One of :data:`INITS`; with ``he`` the paper's CoordConv generator has no batch norm, as there
    :return: Generator ``(batch, latent) -> (batch, 3, size, size)`` in [-1, 1], and discriminator
        ``(batch, 3, size, size) -> (batch,)`` logits
    """
    coordinates = arm != "plain"
    generator: nn.Module
    if arm == "coordconv-1x1":
        generator = PixelwiseGenerator(image_size, width, latent, batch_norm=init == "dcgan")
    else:
        generator = upsampling_generator(image_size, width, latent, coordinates)
    discriminator = make_discriminator(image_size, width, coordinates)
    generator.apply(INITS[init])
    discriminator.apply(INITS[init])
    return generator, discriminator


def upsampling_generator(image_size: int, width: int, latent: int, coordinates: bool) -> nn.Sequential:
    """Return a DCGAN generator, with coordinates in every transposed convolution or in none."""
    layer = CoordConvTranspose2d if coordinates else nn.ConvTranspose2d
    channels = [*widths(image_size, width)[::-1], 3]
    layers: list[nn.Module] = [
        nn.Linear(latent, channels[0] * 16, bias=False),
        nn.Unflatten(1, (channels[0], 4, 4)),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(inplace=True),
    ]
    for before, after in itertools.pairwise(channels[:-1]):
        layers += [
            layer(before, after, 5, stride=2, padding=2, output_padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    layers += [layer(channels[-2], 3, 5, stride=2, padding=2, output_padding=1), nn.Tanh()]
    return nn.Sequential(*layers)


class PixelwiseGenerator(nn.Module):
    """
    The paper's CoordConv generator: each pixel is painted from the latent vector and its coordinates.

    :param image_size: Height and width of the images
    :param width: Channels of the last layers; 64 in the paper
    :param latent: Numbers in a latent vector
    :param batch_norm: Normalise between the layers
    """

    def __init__(self, image_size: int, width: int, latent: int, batch_norm: bool = True) -> None:
        super().__init__()
        self.image_size = image_size
        layers: list[nn.Module] = [CoordConv2d(latent, 8 * width, 1, bias=not batch_norm)]

        def activate(channels: int) -> list[nn.Module]:
            norm: list[nn.Module] = [nn.BatchNorm2d(channels)] if batch_norm else []
            return [*norm, nn.ReLU(inplace=True)]

        shapes = [(8, 4, 1), (4, 4, 1), (4, 2, 1), (2, 1, 1), (1, 1, 3), (1, 1, 3)]
        for before, after, kernel in shapes:
            layers += activate(before * width)
            size = (before * width, after * width, kernel)
            layers.append(nn.Conv2d(*size, padding=kernel // 2, bias=not batch_norm))
        layers += [*activate(width), nn.Conv2d(width, 3, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        """
        Paint images.

        :param latents: ``(batch, latent)``
        :return: ``(batch, 3, size, size)`` in [-1, 1]
        """
        tiled = latents[:, :, None, None].expand(-1, -1, self.image_size, self.image_size)
        images: Tensor = self.layers(tiled)
        return images


def make_discriminator(image_size: int, width: int, coordinates: bool) -> nn.Sequential:
    """Return a DCGAN discriminator, with or without coordinates in its first convolution."""
    channels = widths(image_size, width)
    first = CoordConv2d if coordinates else nn.Conv2d
    layers: list[nn.Module] = [first(3, channels[0], 5, stride=2, padding=2)]
    layers.append(nn.LeakyReLU(0.2, inplace=True))
    for before, after in itertools.pairwise(channels):
        layers += [
            nn.Conv2d(before, after, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(0.2, inplace=True),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * 16, 1), nn.Flatten(0))


def widths(image_size: int, width: int) -> list[int]:
    """Return the channels of the levels from the image down to 4×4: 64, 128, 256, 512 for 64 and 64."""
    levels = (image_size // 4).bit_length() - 1
    return [width * 2**level for level in range(levels)]


@torch.no_grad()
def dcgan_weights(module: nn.Module) -> None:
    """Set DCGAN's initial weights: normal with a standard deviation of 0.02 (around 1 in batch norms)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        module.weight.normal_(0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        module.weight.normal_(1, 0.02)


INITS = {"dcgan": dcgan_weights, "he": he_weights}
