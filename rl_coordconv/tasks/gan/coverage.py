"""
Where the objects of generated images stand: centres by colour, and how much of the position space they cover.

A generator that has collapsed paints its objects in few places; one that lacks a sense of place smears them.
Both show in numbers here: the first in the coverage, the second in the share of well-formed images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist
from torch import Tensor

from rl_coordconv.tasks.gan.sort_of_clevr import COLOURS, half_size

CELLS = 8
PAIRS_COMPARED = 2000
ENOUGH_PAIRS = 20


@dataclass(frozen=True)
class Found:
    """
    The objects seen on images.

    :param counts: ``(images, 2 colours) int64``: objects of each colour
    :param centres: ``(images, 2 colours, x and y) float64`` in pixels; NaN where the count is not 1
    """

    counts: np.ndarray
    centres: np.ndarray

    @property
    def well_formed(self) -> np.ndarray:
        """Whether an image shows exactly one object of each colour; ``(images,) bool``."""
        return np.asarray((self.counts == 1).all(axis=1))


def find_objects(images: Tensor) -> Found:
    """
    Recover objects by colour: connected pixels of one colour, from a quarter to twice a circle's area.

    Smaller blobs are specks and do not count. A blob above the limit counts as two: it is not one object.

    :param images: ``(images, 3, size, size)`` in [-1, 1]
    """
    size = images.shape[-1]
    red, green, blue = (images > 0).cpu().numpy().transpose(1, 0, 2, 3)
    circle = math.pi * half_size(size) ** 2
    parts = [
        _find_blobs(mask, circle / 4, circle * 2) for mask in (red & ~green & ~blue, blue & ~green & ~red)
    ]
    return Found(np.stack([part[0] for part in parts], axis=1), np.stack([part[1] for part in parts], axis=1))


def _find_blobs(masks: np.ndarray, smallest: float, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """Return counts ``(images,)`` and centres ``(images, 2)`` of blobs in ``(images, size, size) bool``."""
    within_an_image = np.zeros((3, 3, 3), dtype=bool)
    within_an_image[1] = True
    labels, blobs = ndimage.label(masks, structure=within_an_image)
    image, y, x = masks.nonzero()
    blob = labels[image, y, x] - 1
    areas = np.bincount(blob, minlength=blobs)
    image_of_blob = np.zeros(blobs, dtype=np.int64)
    image_of_blob[blob] = image
    sums = np.stack([np.bincount(blob, weights=axis + 0.5, minlength=blobs) for axis in (x, y)], axis=1)
    objects = areas >= smallest
    weight = objects * np.where(areas > largest, 2, 1)
    counts = np.bincount(image_of_blob, weights=weight, minlength=len(masks)).astype(np.int64)
    centres = np.full((len(masks), 2), np.nan)
    centres[image_of_blob[objects]] = sums[objects] / areas[objects, None]
    centres[counts != 1] = np.nan
    return counts, centres


def histogram(centres: np.ndarray, size: int, cells: int = CELLS) -> np.ndarray:
    """
    Count centres in cells over the square in which the data's centres lie; outliers go to the border cells.

    :param centres: ``(centres, x and y)`` in pixels, without NaN
    :param size: Height and width of the images
    :param cells: Cells along each axis
    :return: ``(cells along y, cells along x) int64``
    """
    half = half_size(size)
    index = np.floor((centres - half) / (size - 2 * half) * cells).astype(np.int64).clip(0, cells - 1)
    counts = np.bincount(index[:, 1] * cells + index[:, 0], minlength=cells * cells)
    return counts.reshape(cells, cells)


def difference_histogram(pairs: np.ndarray, size: int) -> np.ndarray:
    """
    Count differences of two centres in cells over the square in which the data's differences lie.

    :param pairs: ``(images, x and y of red, x and y of blue)`` in pixels
    :param size: Height and width of the images
    :return: ``(cells along y, cells along x) int64``
    """
    return histogram((pairs[:, :2] - pairs[:, 2:]) / 2 + size / 2, size)


def entropy(counts: np.ndarray) -> float:
    """Return the entropy of a histogram in nats; 0 for an empty one."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log(shares)).sum())


def total_variation(first: np.ndarray, second: np.ndarray) -> float:
    """Return half the summed difference of two histograms' shares: 0 the same, 1 disjoint (or one empty)."""
    if not first.sum() or not second.sum():
        return 1.0
    return float(np.abs(first / first.sum() - second / second.sum()).sum() / 2)


def energy_distance(first: np.ndarray, second: np.ndarray) -> float:
    """
    Return how far apart two samples of points are: ``2 E|X - Y| - E|X - X'| - E|Y - Y'|``.

    0 only for equal distributions (Székely and Rizzo 2013); unbiased, so some samples fall below 0.

    :param first: ``(points, dimensions)``
    :param second: ``(points, dimensions)``
    :return: In the points' unit
    """
    first, second = first[:PAIRS_COMPARED], second[:PAIRS_COMPARED]
    own = sum(cdist(side, side).sum() / (len(side) * (len(side) - 1)) for side in (first, second))
    return float(2 * cdist(first, second).mean() - own)


def coverage(found: Found, data: Found, size: int) -> dict[str, float | None]:
    """
    Compare where objects stand on generated images with where they stand on data.

    Per colour, then averaged: every image with one object of that colour has a say. The joint distance needs
    both objects, so it uses well-formed images only and is None with fewer than 20 of them; so does the
    entropy of the difference of the two centres, which tells whether each object moves for itself.

    :param found: Objects of generated images
    :param data: Objects of as many images of data
    :param size: Height and width of the images
    :return: ``well_formed`` (share of images), ``entropy_ratio`` (1: as spread out as the data),
        ``difference_entropy_ratio`` (the same of red centre less blue centre),
        ``cells_visited`` (share of the data's cells), ``total_variation`` (0: the data's distribution), and
        ``joint_distance`` (energy distance of both centres together, 0: the data's)
    """
    ratios, visited, variations = [], [], []
    for colour in range(len(COLOURS)):
        here, there = (
            histogram(centres[~np.isnan(centres[:, 0])], size)
            for centres in (found.centres[:, colour], data.centres[:, colour])
        )
        ratios.append(entropy(here) / max(entropy(there), 1e-12))
        visited.append(float((here > 0)[there > 0].mean()))
        variations.append(total_variation(here, there))
    pairs, reference = (side.centres[side.well_formed].reshape(-1, 4) for side in (found, data))
    enough = len(pairs) >= ENOUGH_PAIRS
    differences = [entropy(difference_histogram(side, size)) for side in (pairs, reference)]
    return {
        "well_formed": float(found.well_formed.mean()),
        "entropy_ratio": float(np.mean(ratios)),
        "difference_entropy_ratio": differences[0] / max(differences[1], 1e-12) if enough else None,
        "cells_visited": float(np.mean(visited)),
        "total_variation": float(np.mean(variations)),
        "joint_distance": energy_distance(pairs, reference) if enough else None,
    }


def walk_scores(found: Found, steps: int) -> dict[str, float | None]:
    """
    Score latent walks: does every frame show both objects, and do these move or jump?

    :param found: Objects on the frames of the walks, one walk after the other
    :param steps: Frames of a walk
    :return: ``walk_well_formed`` (share of frames), ``walk_largest_jump`` (largest way of a centre
        between two successive frames that both show it, in pixels, averaged over walks; None without such)
    """
    centres = found.centres.reshape(-1, steps, len(COLOURS), 2)
    ways = np.linalg.norm(np.diff(centres, axis=1), axis=-1).reshape(len(centres), -1)
    seen = ways[~np.isnan(ways).all(axis=1)]
    return {
        "walk_well_formed": float(found.well_formed.mean()),
        "walk_largest_jump": float(np.nanmax(seen, axis=1).mean()) if len(seen) else None,
    }
