"""
The proposal network of a small Faster R-CNN (Ren et al. 2015, arXiv:1506.01497), plain or with CoordConv.

Following Liu et al. 2018: two 5×5 convolutions with pooling, a 3×3 proposal head, nine anchors of
15 to 25 pixels per place, positive above IOU 0.5, negative below 0.1. With CoordConv, coordinates go into the
first convolution, the proposal head and the 1×1 box regressor; not into the scorer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_coordconv.layers import CoordConv2d, CoordInit
from rl_coordconv.tasks.detection.boxes import decode, encode, make_anchors, pairwise_iou, top_boxes
from rl_coordconv.tasks.networks import he_weights

STRIDE = 4
SIDES = (15, 20, 25)
POSITIVE, NEGATIVE = 0.5, 0.1
LABELS = ("anchors", "decoded")
DETECTIONS = 10
PAPER_NMS = 0.8


@dataclass(frozen=True)
class FirstStage:
    """
    What the proposal network says of a batch.

    :param features: ``(batch, channels, places, places)``
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
    :param labels: ``(batch, detections) int64``, -1 where the detector does not tell digits apart
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def label_text(label: int) -> str:
    """Return what stands beside a detection: its digit, or nothing where digits are not told apart."""
    return "" if label < 0 else str(label)


class ProposalNetwork(nn.Module):
    """
    Scores anchors and places boxes.

    :param size: Height and width of the canvases
    :param width: Channels of the first convolution (32 in the paper)
    :param coordinates: CoordConv instead of plain convolutions where the paper has them
    :param labels: Which boxes are compared with the digits to tell positive from negative: the ``anchors``,
        or the boxes ``decoded`` from the regressor, as the released code does
    :param coord_init: How coordinates start: see :class:`rl_coordconv.layers.CoordConv2d`
    """

    clips: ClassVar[bool] = True  # boxes to the canvas
    logits: ClassVar[int] = 1  # per anchor: for a digit and, where there are two, against one
    padding: ClassVar[int] = 2  # of the first two convolutions
    head_width: ClassVar[int] = 2  # times width
    first_place: ClassVar[float] = 2.0  # pixels from the border to the middle of the first place
    sampled: ClassVar[int] = 16  # anchors of each kind per canvas that the losses look at
    anchors: Tensor

    def __init__(
        self,
        size: int,
        width: int,
        coordinates: bool,
        *,
        labels: str = "anchors",
        coord_init: CoordInit = "concat",
    ) -> None:
        super().__init__()
        self.canvas, self.labels = size, labels
        self.coordinates, self.coord_init = coordinates, coord_init
        self.body = nn.Sequential(
            self.located(1, width, 5, padding=self.padding),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 5, padding=self.padding),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        hidden, shapes = self.head_width * width, len(SIDES) ** 2
        self.head = nn.Sequential(self.located(2 * width, hidden, 3, padding=1), nn.ReLU(inplace=True))
        self.scorer = nn.Conv2d(hidden, self.logits * shapes, 1)
        self.regressor = self.make_regressor(hidden, 4 * shapes)
        last = size - self.first_place
        middles = torch.arange(self.first_place, last + 0.5, STRIDE)
        self.register_buffer("anchors", make_anchors(middles, SIDES), persistent=False)

    @property
    def size(self) -> float:
        """The canvas that boxes are clipped to; infinite where they are not."""
        return self.canvas if self.clips else math.inf

    def located(self, before: int, after: int, kernel: int, padding: int = 0) -> nn.Conv2d:
        """Return a convolution that sees where it is, if the network has coordinates."""
        if not self.coordinates:
            return nn.Conv2d(before, after, kernel, padding=padding)
        return CoordConv2d(before, after, kernel, padding=padding, coord_init=self.coord_init)

    def make_regressor(self, hidden: int, outputs: int) -> nn.Module:
        """Return the network from the head's channels to the corrections of the anchors."""
        return self.located(hidden, outputs, 1)

    def first_stage(self, images: Tensor) -> FirstStage:
        """
        Score and place the anchors.

        :param images: ``(batch, 1, size, size) float32`` in [0, 1]
        """
        features = self.body(images)
        hidden = self.head(features)
        digit, *none = self.scorer(hidden).unflatten(1, (self.logits, -1)).unbind(1)
        scores = (digit - sum(none)).permute(0, 2, 3, 1).flatten(1)
        deltas = self.regressor(hidden).unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        return FirstStage(features, scores, deltas)

    @torch.no_grad()
    def proposals(
        self, first: FirstStage, nms: float, most: int, competing: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Return the best places to look at and their logits.

        :param first: What the network said
        :param nms: IOU above which the worse box goes
        :param most: Boxes per canvas
        :param competing: As in :func:`rl_coordconv.tasks.detection.boxes.top_boxes`
        """
        return top_boxes(decode(first.deltas, self.anchors, self.size), first.scores, nms, most, competing)

    def losses(self, images: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """
        Return the losses of scorer and regressor.

        :param images: ``(batch, 1, size, size)`` in [0, 1]
        :param boxes: ``(batch, digits, 4)`` ground truth
        :param labels: ``(batch, digits) int64``
        """
        return self.proposal_losses(self.first_stage(images), boxes)

    def proposal_losses(self, first: FirstStage, boxes: Tensor) -> dict[str, Tensor]:
        """Return the losses of scorer and regressor, from what the network said."""
        with torch.no_grad():
            judged = self.anchors
            if self.labels == "decoded":
                judged = decode(first.deltas, self.anchors, self.size)
            pairs, negative = self.assign(judged, boxes)
            yes, no = sample(pairs.flatten(1), self.sampled), sample(negative, self.sampled)
            canvas, place, digit = yes.view_as(pairs).nonzero(as_tuple=True)
        chosen = torch.cat([first.scores[canvas, place], first.scores[no]])
        target = torch.zeros_like(chosen)
        target[: len(canvas)] = 1
        errors = first.deltas[canvas, place] - encode(boxes[canvas, digit], self.anchors[place])
        return {
            "score": F.binary_cross_entropy_with_logits(chosen, target),
            "box": self.box_loss(errors),
        }

    def assign(self, judged: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return which boxes are to be which digit, and which are to be none.

        A digit that nothing covers well still has its best box, even if that does not touch it.

        :param judged: ``(batch or none, anchors, 4)``
        :param boxes: ``(batch, digits, 4)`` ground truth
        :return: ``(batch, anchors, digits) bool``, at most one digit for a box, and ``(batch, anchors) bool``
        """
        overlaps = pairwise_iou(judged, boxes)
        overlap, owner = overlaps.max(-1)
        positive = (overlap > POSITIVE).scatter(1, overlaps.argmax(1), True)
        owned = torch.zeros_like(overlaps, dtype=torch.bool).scatter(2, owner[..., None], True)
        return owned & positive[..., None], (overlap < NEGATIVE) & ~positive

    def box_loss(self, errors: Tensor) -> Tensor:
        """Return the loss of the errors of corrections, ``(n, 4)``."""
        return smooth_l1(errors)

    @torch.no_grad()
    def detect(self, images: Tensor) -> Detections:
        """
        Find the digits.

        :param images: ``(batch, 1, size, size)`` in [0, 1]
        """
        boxes, scores = self.proposals(self.first_stage(images), PAPER_NMS, DETECTIONS)
        return Detections(boxes, scores.sigmoid(), torch.full_like(scores, -1, dtype=torch.int64))


class ReleasedProposalNetwork(ProposalNetwork):
    """
    The model of the paper's released code, which has no second stage.

    Convolutions without padding (13×13 places on 64×64), a narrower head, two logits per anchor, one more 3×3
    with ReLU before the box regressor's coordinates and 1×1, six samples of each kind; he-normal weights, the
    regressor at zero. Boxes are not clipped.
    """

    clips = False
    logits = 2
    padding = 0
    head_width = 1
    first_place = 8.0
    sampled = 6

    def __init__(self, size: int, width: int, coordinates: bool, **options: Any) -> None:
        super().__init__(size, width, coordinates, **{"labels": "decoded", **options})
        self.apply(he_weights)
        for parameter in self.regressor[-1].parameters():  # type: ignore[index]  # made below
            nn.init.zeros_(parameter)

    def make_regressor(self, hidden: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            self.located(hidden, outputs, 1),
        )

    def assign(self, judged: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return which boxes are to be which digits, and which are to be none, as the released sampler does.

        A box may be paired with several digits. One that leaves the canvas is in no pair, unless it is the
        best for a digit, and is not among those that are to be none.

        :param judged: ``(batch or none, anchors, 4)``
        :param boxes: ``(batch, digits, 4)`` ground truth
        :return: ``(batch, anchors, digits) bool`` and ``(batch, anchors) bool``
        """
        overlaps = pairwise_iou(judged, boxes)
        best = torch.zeros_like(overlaps, dtype=torch.bool).scatter(1, overlaps.argmax(1, keepdim=True), True)
        inside = ((judged[..., :2] >= 0) & (judged[..., 2:] <= self.canvas - 1)).all(-1)[..., None]
        return best | ((overlaps > POSITIVE) & inside), ((overlaps < NEGATIVE) & inside & ~best).all(-1)

    def box_loss(self, errors: Tensor) -> Tensor:
        """Return the squared errors, the errors themselves where they are above 1; per box, ``(n, 4)``."""
        size = errors.abs()
        return torch.where(size > 1, size, errors.square()).sum() / max(len(errors), 1)


def sample(candidates: Tensor, most: int) -> Tensor:
    """Return at most this many random ones of the true places of each row; ``(batch, n) bool``."""
    keys = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, -1)
    chosen = torch.zeros_like(candidates).scatter(1, keys.topk(most, dim=1).indices, True)
    return chosen & candidates


def take(boxes: Tensor, index: Tensor) -> Tensor:
    """Return ``boxes[b, index[b, i]]``; ``(batch, m, 4)`` and ``(batch, n)`` to ``(batch, n, 4)``."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


def smooth_l1(errors: Tensor) -> Tensor:
    """Return the smooth L1 loss per box of ``(n, 4)``; 0 where there is none."""
    total = F.smooth_l1_loss(errors, torch.zeros_like(errors), beta=1 / 9, reduction="sum")
    return total / max(len(errors), 1)
