"""
A small Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) for digits on a canvas, plain or with CoordConv.

Following Liu et al. 2018 (section 6): two 5×5 convolutions with pooling, a 3×3 proposal head, nine anchors of
15 to 25 pixels per place, positive above IOU 0.5, negative below 0.1. With CoordConv, coordinates go into the
first convolution, the proposal head and the 1×1 box regressor; not into the scorer. The second stage
(ROI-align, then dense layers) is the same in both arms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_coordconv.layers import CoordConv2d
from rl_coordconv.tasks.detection.boxes import (
    decode,
    encode,
    make_anchors,
    pairwise_iou,
    roi_align,
    top_boxes,
)

ARMS = ("plain", "coordconv")
CLASSES = 10
STRIDE = 4
SIDES = (15, 20, 25)
POSITIVE, NEGATIVE = 0.5, 0.1
SAMPLED = 16  # anchors of each kind per canvas that the proposal losses look at
BINS = 7
HIDDEN = 128
COMPETING = 200
PROPOSALS, PROPOSAL_NMS = 32, 0.7
DETECTIONS, DETECTION_NMS, MIN_SCORE = 10, 0.3, 0.05


@dataclass(frozen=True)
class FirstStage:
    """
    What the proposal network says of a batch.

    :param features: ``(batch, channels, size / 4, size / 4)``
    :param scores: ``(batch, anchors)`` logits: is there a digit
    :param deltas: ``(batch, anchors, 4)``: see :func:`rl_coordconv.tasks.detection.boxes.encode`
    """

    features: Tensor
    scores: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class Detections:
    """
    Digits found, best first; a score of 0 marks an empty place.

    :param boxes: ``(batch, detections, 4)``
    :param scores: ``(batch, detections)`` probabilities
    :param labels: ``(batch, detections) int64``
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detector(nn.Module):
    """
    Proposal network and second stage.

    :param size: Height and width of the canvases
    :param width: Channels of the first convolution (32 in the paper)
    :param coordinates: CoordConv instead of plain convolutions where the paper has them
    """

    anchors: Tensor

    def __init__(self, size: int, width: int, coordinates: bool) -> None:
        super().__init__()
        layer = CoordConv2d if coordinates else nn.Conv2d
        self.size = size
        self.body = nn.Sequential(
            layer(1, width, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(layer(2 * width, 2 * width, 3, padding=1), nn.ReLU(inplace=True))
        shapes = len(SIDES) ** 2
        self.scorer = nn.Conv2d(2 * width, shapes, 1)
        self.regressor = layer(2 * width, 4 * shapes, 1)
        self.dense = nn.Sequential(nn.Linear(2 * width * BINS**2, HIDDEN), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(HIDDEN, CLASSES + 1)  # class 0 is background
        self.refiner = nn.Linear(HIDDEN, 4)
        self.register_buffer("anchors", make_anchors(size, STRIDE, SIDES), persistent=False)

    def first_stage(self, images: Tensor) -> FirstStage:
        """
        Score and place the anchors.

        :param images: ``(batch, 1, size, size) float32`` in [0, 1]
        """
        features = self.body(images)
        hidden = self.head(features)
        scores = self.scorer(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.regressor(hidden).unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        return FirstStage(features, scores, deltas)

    @torch.no_grad()
    def proposals(self, first: FirstStage, nms: float = PROPOSAL_NMS, most: int = PROPOSALS) -> Tensor:
        """Return the best places to look at, ``(batch, at most this many, 4)``."""
        boxes = decode(first.deltas, self.anchors, self.size)
        return top_boxes(boxes, first.scores, nms, COMPETING, most)[0]

    def second_stage(self, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits ``(batch, boxes, 11)`` and corrections ``(batch, boxes, 4)``."""
        hidden = self.dense(roi_align(features, boxes, STRIDE, BINS).flatten(2))
        return self.classifier(hidden), self.refiner(hidden)

    def losses(self, images: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """
        Return the four losses of Faster R-CNN.

        :param images: ``(batch, 1, size, size)`` in [0, 1]
        :param boxes: ``(batch, digits, 4)`` ground truth
        :param labels: ``(batch, digits) int64``
        """
        first = self.first_stage(images)
        candidates = torch.cat([self.proposals(first), boxes], dim=1)
        overlap, owner = pairwise_iou(candidates, boxes).max(-1)
        hit = overlap >= POSITIVE
        logits, deltas = self.second_stage(first.features, candidates)
        target = torch.where(hit, labels.gather(1, owner) + 1, 0)
        return {
            **self._proposal_losses(first, boxes),
            "class": F.cross_entropy(logits.flatten(0, 1), target.flatten()),
            "refine": box_loss(deltas[hit], candidates[hit], take(boxes, owner)[hit]),
        }

    def _proposal_losses(self, first: FirstStage, boxes: Tensor) -> dict[str, Tensor]:
        overlaps = pairwise_iou(self.anchors, boxes)
        overlap, owner = overlaps.max(-1)
        # A digit that no anchor covers well still has its best anchor.
        best = overlaps.argmax(1)
        positive = (overlap > POSITIVE).scatter(1, best, True)
        negative = (overlap < NEGATIVE) & ~positive
        yes, no = sample(positive), sample(negative)
        chosen = torch.cat([first.scores[yes], first.scores[no]])
        target = torch.cat([torch.ones_like(first.scores[yes]), torch.zeros_like(first.scores[no])])
        anchors = self.anchors.expand(len(boxes), -1, -1)
        return {
            "score": F.binary_cross_entropy_with_logits(chosen, target),
            "box": box_loss(first.deltas[yes], anchors[yes], take(boxes, owner)[yes]),
        }

    @torch.no_grad()
    def detect(self, images: Tensor) -> Detections:
        """
        Find the digits.

        :param images: ``(batch, 1, size, size)`` in [0, 1]
        """
        first = self.first_stage(images)
        proposals = self.proposals(first)
        logits, deltas = self.second_stage(first.features, proposals)
        boxes = decode(deltas, proposals, self.size)
        scores = logits.softmax(-1)[..., 1:].flatten(1)
        labels = torch.arange(CLASSES, device=boxes.device).repeat(proposals.shape[1])
        boxes = boxes.repeat_interleave(CLASSES, dim=1)
        # One suppression for all classes: each class has its own region of the plane.
        shift = (labels * 2 * self.size)[:, None].to(boxes.dtype)
        scores = torch.where(scores >= MIN_SCORE, scores, -torch.inf)
        kept, scores = top_boxes(boxes + shift, scores, DETECTION_NMS, COMPETING, DETECTIONS)
        labels = (kept[..., 0] / (2 * self.size)).long().clamp(0, CLASSES - 1)
        boxes = kept - (labels * 2 * self.size)[..., None]
        return Detections(boxes, scores.clamp(min=0), labels)


def sample(candidates: Tensor) -> Tensor:
    """Return at most :data:`SAMPLED` random ones of the true places of each row; ``(batch, n) bool``."""
    keys = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, -1)
    chosen = torch.zeros_like(candidates).scatter(1, keys.topk(SAMPLED, dim=1).indices, True)
    return chosen & candidates


def take(boxes: Tensor, index: Tensor) -> Tensor:
    """Return ``boxes[b, index[b, i]]``; ``(batch, m, 4)`` and ``(batch, n)`` to ``(batch, n, 4)``."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


def box_loss(deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return the smooth L1 loss per box; 0 where there is none. All ``(n, 4)``."""
    total = F.smooth_l1_loss(deltas, encode(boxes, anchors), beta=1 / 9, reduction="sum")
    return total / max(len(boxes), 1)
