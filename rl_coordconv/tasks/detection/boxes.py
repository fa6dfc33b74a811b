"""
Boxes, as detection needs them: overlap, non-maximum suppression, regression targets, ROI-align.

Boxes are ``(..., 4)`` float tensors of left, top, right, bottom in pixels, with x to the right and y down.
Every function works on a whole batch at once, on any device. torchvision has such operators too, but its
compiled part must match PyTorch's build exactly; these need nothing but PyTorch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Faster R-CNN regresses log sizes; this bound keeps exp() finite (a box grows 62 times at most).
MAX_LOG_SCALE = 4.135


def areas(boxes: Tensor) -> Tensor:
    """Return areas, 0 for boxes that are inside out; ``(..., 4) -> (...)``."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """
    Return intersection over union of all pairs; 0 where both boxes are empty.

    :param first: ``(..., n, 4)``
    :param second: ``(..., m, 4)``
    :return: ``(..., n, m)``
    """
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    union = areas(first)[..., :, None] + areas(second)[..., None, :] - common
    return common / union.clamp(min=1e-9)


def top_boxes(
    boxes: Tensor, scores: Tensor, threshold: float, most: int, competing: int | None = None
) -> tuple[Tensor, Tensor]:
    """
    Return the best boxes that greedy non-maximum suppression keeps.

    :param boxes: ``(batch, n, 4)``
    :param scores: ``(batch, n)``
    :param threshold: A box goes when it overlaps a better one that stays by more than this IOU
    :param most: Boxes returned per image
    :param competing: Only this many boxes by score take part (default: all), which is faster
    :return: Boxes ``(batch, most or n, 4)`` and scores ``(batch, most or n)``, best first; where fewer are
        kept, the rest has score ``-inf``
    """
    if competing is not None:
        scores, order = scores.topk(min(competing, scores.shape[1]), dim=1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    kept, kept_scores = [], []
    for _ in range(min(most, scores.shape[1])):
        best, index = scores.max(1, keepdim=True)
        box = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        suppressed = (pairwise_iou(boxes, box)[..., 0] > threshold).scatter(1, index, True)
        scores = scores.masked_fill(suppressed, -torch.inf)
        kept.append(box)
        kept_scores.append(best)
    return torch.cat(kept, 1), torch.cat(kept_scores, 1)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """
    Return what a network must add to anchors to hit boxes (Ren et al. 2015, arXiv:1506.01497, equation 2).

    :param boxes: ``(..., 4)``
    :param anchors: ``(..., 4)``
    :return: ``(..., 4)``: shift of the centre in anchor sizes, then log of the size ratio
    """
    size, anchor_size = (side[..., 2:] - side[..., :2] for side in (boxes, anchors))
    shift = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / 2 / anchor_size
    return torch.cat([shift, (size / anchor_size).log()], dim=-1)


def decode(deltas: Tensor, anchors: Tensor, size: float) -> Tensor:
    """
    Return the boxes that a network means, clipped to the image; the inverse of :func:`encode`.

    :param deltas: ``(..., 4)``
    :param anchors: ``(..., 4)``
    :param size: Height and width of the image; ``inf`` does not clip
    """
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * anchor_size
    half = anchor_size * deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() / 2
    boxes = torch.cat([centre - half, centre + half], dim=-1)
    return boxes if size == math.inf else boxes.clamp(0, size)


def make_anchors(middles: Tensor, sides: tuple[int, ...]) -> Tensor:
    """
    Return anchors of all combinations of ``sides``, centred on each place of a feature map.

    :param middles: Where the places of a row, and of a column, stand in pixels, ``(places,)``
    :param sides: Widths, and heights, in pixels
    :return: ``(places along y * places along x * len(sides)², 4)``, in this order of axes
    """
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    lengths = torch.tensor(sides, device=middles.device, dtype=torch.float32)
    height, width = torch.meshgrid(lengths, lengths, indexing="ij")
    half = torch.stack([width, height], dim=-1).view(1, -1, 2) / 2
    centres = torch.stack([x, y], dim=-1).view(-1, 1, 2)
    return torch.cat([centres - half, centres + half], dim=-1).view(-1, 4)


def roi_align(features: Tensor, boxes: Tensor, stride: int, bins: int, samples: int = 2) -> Tensor:
    """
    Return the features under boxes, resampled to a fixed size (He et al. 2017, arXiv:1703.06870, section 3).

    The half-pixel-exact variant (``aligned=True`` in torchvision). A bilinear sample's weights are products
    of one along each axis, so that all samples are two matrix products: much faster than ``grid_sample``.

    :param features: ``(batch, channels, height, width)``
    :param boxes: ``(batch, n, 4)`` in pixels of the image, inside of it
    :param stride: Pixels of the image per feature
    :param bins: Height and width of the result
    :param samples: Bilinear samples per bin along each axis, averaged
    :return: ``(batch, n, channels, bins, bins)``
    """
    height, width = features.shape[-2:]
    across = _resampling(boxes[..., 0], boxes[..., 2], width, stride, bins, samples)
    down = _resampling(boxes[..., 1], boxes[..., 3], height, stride, bins, samples)
    return torch.einsum("bnih,bchw,bnjw->bncij", down, features, across)


def _resampling(low: Tensor, high: Tensor, places: int, stride: int, bins: int, samples: int) -> Tensor:
    """Return how much each of ``places`` features counts in each bin, ``(batch, n, bins, places)``."""
    points = bins * samples
    steps = (torch.arange(points, device=low.device) + 0.5) / points
    at = (low[..., None] + (high - low)[..., None] * steps) / stride - 0.5
    at = at.clamp(0, places - 1)  # beyond the middle of a border pixel there is only that pixel
    shares = (1 - (at[..., None] - torch.arange(places, device=low.device)).abs()).clamp(min=0)
    return shares.unflatten(-2, (bins, samples)).mean(-2)
