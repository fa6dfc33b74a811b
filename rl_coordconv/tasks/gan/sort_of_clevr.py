"""
Two-object Sort-of-CLEVR: one red and one blue object, circle or square, on white.

Liu et al. 2018 (arXiv:1807.03247): 64×64 pixels, half-size 10, centres uniform in [10, 54) and at
least 20 pixels apart. Other image sizes keep the proportions. Scenes are a few numbers each, drawn by seed;
images are rendered from them on the device that needs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

COLOURS = ("red", "blue")
RED_BLUE = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])


@dataclass(frozen=True)
class Scenes:
    """
    What is on a number of images.

    :param centres: ``(scenes, 2 objects, x and y) float32`` in pixels; the red object comes first
    :param circles: ``(scenes, 2 objects) bool``: circle, else square
    :param size: Height and width of the images
    """

    centres: Tensor
    circles: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.centres)

    def __getitem__(self, index: Tensor | slice) -> Scenes:
        return Scenes(self.centres[index], self.circles[index], self.size)

    def to(self, device: torch.device) -> Scenes:
        """Return the scenes on ``device``."""
        return Scenes(self.centres.to(device), self.circles.to(device), self.size)


def half_size(size: int) -> float:
    """Return the radius of a circle and half the side of a square, in pixels, on images of ``size``."""
    return 10 * size / 64


def make_scenes(count: int, size: int, seed: int) -> Scenes:
    """
    Draw scenes whose objects do not share a centre region.

    :param count: How many
    :param size: Height and width of the images, in pixels
    :param seed: The same seed gives the same scenes
    """
    generator = torch.Generator().manual_seed(seed)
    half = half_size(size)

    def draw(number: int) -> Tensor:
        return half + (size - 2 * half) * torch.rand(number, 2, 2, generator=generator)

    centres = draw(count)
    while len(close := (centres[:, 0] - centres[:, 1]).norm(dim=-1).lt(2 * half).nonzero()[:, 0]):
        centres[close] = draw(len(close))
    circles = torch.rand(count, 2, generator=generator) < 0.5
    return Scenes(centres, circles, size)


def render(scenes: Scenes) -> Tensor:
    """
    Paint scenes.

    :param scenes: On any device
    :return: ``(scenes, 3, size, size) float32`` in [-1, 1]; where objects touch, blue is on top
    """
    device = scenes.centres.device
    middles = torch.arange(scenes.size, device=device) + 0.5
    dx = middles.view(1, 1, 1, -1) - scenes.centres[..., 0, None, None]
    dy = middles.view(1, 1, -1, 1) - scenes.centres[..., 1, None, None]
    half = half_size(scenes.size)
    circle = dx**2 + dy**2 <= half**2
    square = (dx.abs() <= half) & (dy.abs() <= half)
    masks = torch.where(scenes.circles[..., None, None], circle, square)
    images = torch.ones(len(scenes), 3, scenes.size, scenes.size, device=device)
    for mask, colour in zip(masks.unbind(1), RED_BLUE.to(device), strict=True):
        images = torch.where(mask[:, None], colour.view(1, 3, 1, 1), images)
    return images
