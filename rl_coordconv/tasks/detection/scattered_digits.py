"""
Canvases with scattered digits and the boxes around them, after Liu et al. 2018 (arXiv:1807.03247).

Five digits on 64×64 pixels, each 15 to 25 pixels high. Digits may touch; they hardly cover each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rl_coordconv.errors import UserError
from rl_coordconv.tasks.detection.boxes import areas
from rl_coordconv.tasks.detection.digit_images import Digits

HEIGHTS = (15, 25)
WIDTHS = (10, 25)
TRIES = 64
ALLOWED_OVERLAP = 0.1
DRAWN = {"cropped": 120 / 64, "uncropped": 1.0}  # side of what is drawn, in sides of the canvas
SCENES = ("inside", *DRAWN)
RENDERED_AT_ONCE = 500


@dataclass(frozen=True)
class Canvases:
    """
    Pictures and what is on them.

    :param images: ``(canvases, 1, size, size) uint8``, white ink on black
    :param boxes: ``(canvases, digits, 4) float32``: left, top, right, bottom of the ink, in pixels
    :param labels: ``(canvases, digits) int64``
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


def check_canvas(size: int, digits: int) -> None:
    """
    Refuse canvases that cannot hold their digits.

    :param size: Height and width in pixels
    :param digits: Digits per canvas
    :raises UserError: Too small, or not a multiple of 4 (the detector's stride)
    """
    smallest = math.ceil(math.sqrt(1.25 * digits) * HEIGHTS[1])
    if size < smallest:
        raise UserError(
            f"canvas_size is {size}: {digits} digits of up to {HEIGHTS[1]} pixels need {smallest} or more"
        )
    if size % 4:
        raise UserError(f"canvas_size is {size}: it must be a multiple of 4, e.g. {size + 4 - size % 4}")


def make_canvases(
    digits: Digits, count: int, size: int, per_canvas: int, seed: int, scenes: str = "inside"
) -> Canvases:
    """
    Scatter digits.

    ``inside`` puts whole digits where they cover little of each other, in their own proportions. ``cropped``
    is the paper's data: on a canvas of 120 pixels for 64, anywhere, height and width drawn apart, ink added
    up; the middle is cut out, so that boxes reach beyond the canvas or lie off it. ``uncropped`` is drawn in
    the same way on the canvas itself.

    :param digits: Where to take them from
    :param count: Canvases
    :param size: Height and width of a canvas in pixels
    :param per_canvas: Digits on each
    :param seed: The same seed gives the same canvases
    :param scenes: inside, cropped or uncropped
    """
    drawn = DRAWN.get(scenes)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(digits), (count, per_canvas), generator=generator)
    heights = HEIGHTS[0] + (HEIGHTS[1] - HEIGHTS[0]) * torch.rand(count, per_canvas, generator=generator)
    if drawn is not None:
        widths = HEIGHTS[0] + (HEIGHTS[1] - HEIGHTS[0]) * torch.rand(count, per_canvas, generator=generator)
        extent = torch.stack([widths, heights], dim=-1)
        low = torch.rand(count, per_canvas, 2, generator=generator) * (size * drawn - extent)
        boxes = torch.cat([low, low + extent], dim=-1) - size * (drawn - 1) / 2
    else:
        sizes = torch.stack([(heights * digits.aspects[chosen]).clamp(*WIDTHS), heights], dim=-1)
        boxes = place(sizes, size, generator)
    images = torch.cat(
        [
            paint(digits.crops[index], part, size, add=drawn is not None)
            for index, part in zip(chosen.split(RENDERED_AT_ONCE), boxes.split(RENDERED_AT_ONCE), strict=True)
        ]
    )
    return Canvases(images, boxes, digits.labels[chosen])


def place(sizes: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """
    Put boxes one after the other where they cover little of those before: the first good place of a few
    random ones, or the best of them.

    :param sizes: ``(canvases, digits, width and height)``
    :param size: Height and width of a canvas
    :param generator: Of the random places
    :return: ``(canvases, digits, 4)``
    """
    canvases, digits, _ = sizes.shape
    boxes = torch.zeros(canvases, 0, 4)
    for index in range(digits):
        extent = sizes[:, index, None]
        low = torch.rand(canvases, TRIES, 2, generator=generator) * (size - extent)
        tries = torch.cat([low, low + extent], dim=-1)
        overlap = covered(tries, boxes)
        best = torch.where(
            (overlap <= ALLOWED_OVERLAP).any(1),
            (overlap <= ALLOWED_OVERLAP).int().argmax(1),
            overlap.argmin(1),
        )
        boxes = torch.cat([boxes, tries[torch.arange(canvases), best, None]], dim=1)
    return boxes


def covered(tries: Tensor, boxes: Tensor) -> Tensor:
    """
    Return the largest share of a box, new or old, that would be covered; ``(canvases, tries)``.

    :param tries: ``(canvases, tries, 4)``
    :param boxes: ``(canvases, boxes, 4)``
    """
    if not boxes.shape[1]:
        return torch.zeros(tries.shape[:2])
    low = torch.maximum(tries[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(tries[:, :, None, 2:], boxes[:, None, :, 2:])
    common = areas(torch.cat([low, high], dim=-1))
    return (common / torch.minimum(areas(tries)[:, :, None], areas(boxes)[:, None])).amax(-1)


def paint(crops: Tensor, boxes: Tensor, size: int, add: bool = False) -> Tensor:
    """
    Draw crops into their boxes.

    :param crops: ``(canvases, digits, side, side)`` in [0, 1]
    :param boxes: ``(canvases, digits, 4)``
    :param size: Height and width of a canvas
    :param add: Add overlapping ink up; else the brighter one is seen
    :return: ``(canvases, 1, size, size) uint8``
    """
    middles = torch.arange(size) + 0.5
    low, extent = boxes[..., :2, None], (boxes[..., 2:] - boxes[..., :2])[..., None]
    x, y = ((middles - low) / extent * 2 - 1).unbind(2)
    grid = torch.stack(torch.broadcast_tensors(x[..., None, :], y[..., :, None]), dim=-1)
    inside = (grid.abs() <= 1).all(-1)
    ink = F.grid_sample(
        crops.flatten(0, 1)[:, None], grid.flatten(0, 1), padding_mode="border", align_corners=False
    )
    digits = ink.view(*crops.shape[:2], size, size) * inside
    seen = digits.sum(1, keepdim=True).clamp(max=1) if add else digits.amax(1, keepdim=True)
    return (seen * 255).round().to(torch.uint8)
