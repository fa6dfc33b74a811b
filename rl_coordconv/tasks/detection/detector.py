"""
A small Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) for digits on a canvas, plain or with CoordConv.

The second stage (ROI-align, then dense layers) is the same in both arms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_coordconv.tasks.detection.boxes import decode, encode, pairwise_iou, roi_align, top_boxes
from rl_coordconv.tasks.detection.proposals import (
    DETECTIONS,
    POSITIVE,
    STRIDE,
    Detections,
    FirstStage,
    ProposalNetwork,
    smooth_l1,
    take,
)

CLASSES = 10
BINS = 7
HIDDEN = 128
COMPETING = 200
PROPOSALS, PROPOSAL_NMS = 32, 0.7
DETECTION_NMS, MIN_SCORE = 0.3, 0.05


class Detector(ProposalNetwork):
    """
    Proposal network and second stage.

    :param size: Height and width of the canvases
    :param width: Channels of the first convolution (32 in the paper)
    :param coordinates: CoordConv instead of plain convolutions where the paper has them
    :param options: Of :class:`ProposalNetwork`
    """

    def __init__(self, size: int, width: int, coordinates: bool, **options: Any) -> None:
        super().__init__(size, width, coordinates, **options)
        self.dense = nn.Sequential(nn.Linear(2 * width * BINS**2, HIDDEN), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(HIDDEN, CLASSES + 1)  # class 0 is background
        self.refiner = nn.Linear(HIDDEN, 4)

    def second_stage(self, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits ``(batch, boxes, 11)`` and corrections ``(batch, boxes, 4)``."""
        hidden = self.dense(roi_align(features, boxes, STRIDE, BINS).flatten(2))
        return self.classifier(hidden), self.refiner(hidden)

    def _candidates(self, first: FirstStage) -> Tensor:
        """Return the boxes that the second stage looks at, ``(batch, 32, 4)``."""
        return self.proposals(first, PROPOSAL_NMS, PROPOSALS, COMPETING)[0]

    def losses(self, images: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """
        Return the four losses of Faster R-CNN.

        :param images: ``(batch, 1, size, size)`` in [0, 1]
        :param boxes: ``(batch, digits, 4)`` ground truth
        :param labels: ``(batch, digits) int64``
        """
        first = self.first_stage(images)
        candidates = torch.cat([self._candidates(first), boxes], dim=1)
        overlap, owner = pairwise_iou(candidates, boxes).max(-1)
        hit = overlap >= POSITIVE
        logits, deltas = self.second_stage(first.features, candidates)
        target = torch.where(hit, labels.gather(1, owner) + 1, 0)
        return {
            **self.proposal_losses(first, boxes),
            "class": F.cross_entropy(logits.flatten(0, 1), target.flatten()),
            "refine": smooth_l1(deltas[hit] - encode(take(boxes, owner)[hit], candidates[hit])),
        }

    @torch.no_grad()
    def detect(self, images: Tensor) -> Detections:
        """
        Find the digits.

        :param images: ``(batch, 1, size, size)`` in [0, 1]
        """
        first = self.first_stage(images)
        proposals = self._candidates(first)
        logits, deltas = self.second_stage(first.features, proposals)
        boxes = decode(deltas, proposals, self.size)
        scores = logits.softmax(-1)[..., 1:].flatten(1)
        labels = torch.arange(CLASSES, device=boxes.device).repeat(proposals.shape[1])
        boxes = boxes.repeat_interleave(CLASSES, dim=1)
        # One suppression for all classes: each class has its own region of the plane.
        shift = (labels * 2 * self.size)[:, None].to(boxes.dtype)
        scores = torch.where(scores >= MIN_SCORE, scores, -torch.inf)
        kept, scores = top_boxes(boxes + shift, scores, DETECTION_NMS, DETECTIONS, COMPETING)
        labels = (kept[..., 0] / (2 * self.size)).long().clamp(0, CLASSES - 1)
        boxes = kept - (labels * 2 * self.size)[..., None]
        return Detections(boxes, scores.clamp(min=0), labels)
