"""
Not-so-Clevr (Liu et al. 2018, section 2): every whole square on a small canvas, made in memory.

A sample is one centre ``(x, y)`` in pixels; its one-hot map and its painted square are made from it on
demand, on the device where they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_coordconv.errors import UserError, choose

SPLITS = ("uniform", "quadrant")
TEST_SHARE = 0.2  # of the uniform split, as in the paper


@dataclass(frozen=True)
class NotSoClevr:
    """
    All squares that fit whole on a canvas: 3136 of 9 x 9 on 64 x 64 (the paper's data set).

    :param canvas: Side of the canvas in pixels
    :param square: Side of the square in pixels, odd so that it has a centre pixel
    :raises UserError: The square does not fit, or has no centre pixel
    """

    canvas: int = 64
    square: int = 9

    def __post_init__(self) -> None:
        if self.square < 1 or self.square % 2 == 0:
            raise UserError(f"square is {self.square}: it must be an odd number of pixels, 1 or more")
        if self.square > self.canvas:
            raise UserError(f"square {self.square} is larger than canvas {self.canvas}: make it smaller")
        if self.canvas < self.square + 7:
            raise UserError(
                f"canvas {self.canvas} leaves square {self.square} hardly any place: it must be "
                f"{self.square + 7} or more"
            )

    @property
    def centres(self) -> Tensor:
        """All centres, ``(samples, 2) int64`` as x, y, row by row; in the paper 4 to 59 on both axes."""
        margin = self.square // 2
        places = torch.arange(margin, self.canvas - margin)
        y, x = torch.meshgrid(places, places, indexing="ij")
        return torch.stack([x.flatten(), y.flatten()], dim=1)

    def split(self, name: str, seed: int) -> tuple[Tensor, Tensor]:
        """
        Return the centres to train on and to test on.

        ``uniform`` holds out 20 % at random; ``quadrant`` holds out every centre in the canvas's second half
        on both axes (784 of 3136 at the paper's sizes), whatever the seed.

        :param name: uniform or quadrant
        :param seed: Seed of the random choice
        :return: Train and test centres, ``(samples, 2) int64``
        :raises UserError: There is no such split
        """
        choose("split", name, SPLITS)
        centres = self.centres
        if name == "quadrant":
            held_out = (centres >= self.canvas // 2).all(dim=1)
        else:
            order = torch.randperm(len(centres), generator=torch.Generator().manual_seed(seed))
            held_out = order < round(TEST_SHARE * len(centres))
        return centres[~held_out], centres[held_out]

    def to_unit(self, centres: Tensor) -> Tensor:
        """Return pixels as CoordConv's coordinates: -1 is the first pixel's centre, 1 the last one's."""
        return centres.float() * (2 / (self.canvas - 1)) - 1

    def to_pixels(self, unit: Tensor) -> Tensor:
        """Return CoordConv's coordinates as pixels, the inverse of :meth:`to_unit`."""
        return (unit + 1) * ((self.canvas - 1) / 2)

    def index(self, centres: Tensor) -> Tensor:
        """Return the flat pixel of each centre, ``(samples,) int64``: the class to predict."""
        return centres[:, 1] * self.canvas + centres[:, 0]

    def one_hot(self, centres: Tensor) -> Tensor:
        """Return the maps that are 1 at the centre, ``(samples, 1, canvas, canvas) float32``."""
        return self._painted(centres, 0)

    def squares(self, centres: Tensor) -> Tensor:
        """Return the painted squares, ``(samples, 1, canvas, canvas) float32`` of 0 and 1."""
        return self._painted(centres, self.square // 2)

    def _painted(self, centres: Tensor, reach: int) -> Tensor:
        pixels = torch.arange(self.canvas, device=centres.device)
        near = (pixels - centres[:, :, None]).abs() <= reach  # (samples, 2, canvas)
        return (near[:, 1, :, None] & near[:, 0, None, :]).unsqueeze(1).float()
