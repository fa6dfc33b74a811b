"""
Boxes, as detection needs them: overlap, non-maximum suppression, regression targets, ROI-align.

Boxes are ``(..., 4)`` float tensors of left, top, right, bottom in pixels, with x to the right and y down.
Every function works on a whole batch at once, on any device. torchvision has such operators too, but its
compiled part must match PyTorch's build exactly; these need nothing but PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

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


def nms_keep(boxes: Tensor, threshold: float) -> Tensor:
    """
    Return which boxes greedy non-maximum suppression keeps.

    :param boxes: ``(..., n, 4)``, best score first
    :param threshold: A box goes when it overlaps a better one that stays by more than this IOU
    :return: ``(..., n) bool``
    """
    rank = torch.arange(boxes.shape[-2], device=boxes.device)
    suppresses = (pairwise_iou(boxes, boxes) > threshold) & (rank[:, None] < rank)
    keep = torch.ones(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
    # Whether box i stays depends on better boxes only, so each round settles at least one more box; in
    # practice a few rounds settle all, and a round is one matrix operation instead of n small ones.
    while True:
        updated = ~(suppresses & keep[..., None]).any(-2)
        if torch.equal(updated, keep):
            return keep
        keep = updated


def top_boxes(
    boxes: Tensor, scores: Tensor, threshold: float, before: int, after: int
) -> tuple[Tensor, Tensor]:
    """
    Return the best boxes that non-maximum suppression keeps.

    :param boxes: ``(batch, n, 4)``
    :param scores: ``(batch, n)``
    :param threshold: IOU above which the worse box goes
    :param before: Boxes by score that compete
    :param after: Boxes returned per image
    :return: Boxes ``(batch, after, 4)`` and scores ``(batch, after)``, best first; where fewer are kept, the
        rest has score ``-inf``
    """
    scores, order = scores.topk(min(before, scores.shape[1]), dim=1)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    scores = scores.masked_fill(~nms_keep(boxes, threshold), -torch.inf)
    scores, order = scores.topk(min(after, scores.shape[1]), dim=1)
    return boxes.gather(1, order[..., None].expand(-1, -1, 4)), scores


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


def decode(deltas: Tensor, anchors: Tensor, size: int) -> Tensor:
    """
    Return the boxes that a network means, clipped to the image; the inverse of :func:`encode`.

    :param deltas: ``(..., 4)``
    :param anchors: ``(..., 4)``
    :param size: Height and width of the image
    """
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * anchor_size
    half = anchor_size * deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1).clamp(0, size)


def make_anchors(
    size: int, stride: int, sides: tuple[int, ...], device: torch.device | None = None
) -> Tensor:
    """
    Return anchors of all combinations of ``sides``, centred on each place of a feature map.

    :param size: Height and width of the image
    :param stride: Pixels per place
    :param sides: Widths, and heights, in pixels
    :return: ``(places along y * places along x * len(sides)², 4)``, in this order of axes
    """
    middles = (torch.arange(size // stride, device=device) + 0.5) * stride
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    lengths = torch.tensor(sides, device=device, dtype=torch.float32)
    height, width = torch.meshgrid(lengths, lengths, indexing="ij")
    half = torch.stack([width, height], dim=-1).view(1, -1, 2) / 2
    centres = torch.stack([x, y], dim=-1).view(-1, 1, 2)
    return torch.cat([centres - half, centres + half], dim=-1).view(-1, 4)


def roi_align(features: Tensor, boxes: Tensor, stride: int, bins: int, samples: int = 2) -> Tensor:
    """
    Return the features under boxes, resampled to a fixed size (He et al. 2017, arXiv:1703.06870, section 3).

    The half-pixel-exact variant (``aligned=True`` in torchvision).

    :param features: ``(batch, channels, height, width)``
    :param boxes: ``(batch, n, 4)`` in pixels of the image, inside of it
    :param stride: Pixels of the image per feature
    :param bins: Height and width of the result
    :param samples: Bilinear samples per bin along each axis, averaged
    :return: ``(batch, n, channels, bins, bins)``
    """
    height, width = features.shape[-2:]
    points = bins * samples
    steps = (torch.arange(points, device=boxes.device) + 0.5) / points
    extent = boxes.new_tensor([width, height]) * stride
    low, high = boxes[..., :2] / extent * 2 - 1, boxes[..., 2:] / extent * 2 - 1
    x, y = (low[..., None] + (high - low)[..., None] * steps).unbind(2)
    grid = torch.stack(torch.broadcast_tensors(x[..., None, :], y[..., :, None]), dim=-1)
    # grid_sample with these settings reads -1 and 1 as the outer edges of the border pixels, like ROI-align.
    sampled = F.grid_sample(
        features, grid.flatten(1, 2).to(features.dtype), padding_mode="border", align_corners=False
    )
    sampled = F.avg_pool2d(sampled, samples)
    return sampled.unflatten(2, (-1, bins)).transpose(1, 2)
