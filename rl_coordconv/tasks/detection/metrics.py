"""How well boxes fit: IOU of proposals, IOU and recall of detections, COCO's average precision."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from rl_coordconv.tasks.detection.boxes import pairwise_iou
from rl_coordconv.tasks.detection.detector import CLASSES
from rl_coordconv.tasks.detection.proposals import Detections

THRESHOLDS = (0.3, 0.5, 0.7)
SHOWN_SCORE = 0.5


def best_iou(boxes: Tensor, truth: Tensor) -> float:
    """
    Return how well the best box fits a digit, averaged over digits; a digit that no box touches counts as 0.

    :param boxes: ``(canvases, boxes, 4)``
    :param truth: ``(canvases, digits, 4)``
    """
    return float(pairwise_iou(boxes, truth).amax(1).mean())


def iou_of_boxes(boxes: Tensor, scores: Tensor, truth: Tensor) -> float:
    """
    Return how well a box fits the digit that it fits best, averaged over boxes, as the released code does.

    :param boxes: ``(canvases, boxes, 4)``
    :param scores: ``(canvases, boxes)``; ``-inf`` marks an empty place, which does not count
    :param truth: ``(canvases, digits, 4)``
    """
    return float(pairwise_iou(boxes, truth).amax(2)[scores > -torch.inf].mean())


def match(detections: Detections, truth: Tensor, threshold: float) -> Tensor:
    """
    Match detections to digits, best score first, each digit at most once, whatever the class.

    Detections with a score below :data:`SHOWN_SCORE` do not count.

    :param detections: Of all canvases
    :param truth: ``(canvases, digits, 4)``
    :param threshold: Smallest IOU of a match
    :return: ``(canvases, detections)``: IOU with the matched digit, 0 without one
    """
    overlaps = pairwise_iou(detections.boxes, truth)
    overlaps = overlaps * (detections.scores >= SHOWN_SCORE)[..., None]
    matched = torch.zeros_like(detections.scores)
    canvases = torch.arange(len(truth), device=truth.device)
    for index in range(matched.shape[1]):
        iou, digit = overlaps[:, index].max(-1)
        hit = iou >= threshold
        matched[hit, index] = iou[hit]
        overlaps[canvases[hit], :, digit[hit]] = 0
    return matched


def matched_numbers(detections: Detections, truth: Tensor) -> dict[str, float | None]:
    """
    Return ``iou@t`` (mean IOU of matches, None without any) and ``recall@t`` for :data:`THRESHOLDS`.

    :param detections: Of all canvases
    :param truth: ``(canvases, digits, 4)``
    """
    numbers: dict[str, float | None] = {}
    for threshold in THRESHOLDS:
        matched = match(detections, truth, threshold)
        hits = matched[matched > 0]
        numbers[f"iou@{threshold}"] = float(hits.mean()) if len(hits) else None
        numbers[f"recall@{threshold}"] = len(hits) / (truth.shape[0] * truth.shape[1])
    return numbers


def mean_average_precision(detections: Detections, truth: Tensor, labels: Tensor) -> dict[str, float]:
    """
    Return pycocotools' average precision over the ten classes: mean over IOU 0.50 to 0.95, and at 0.50.

    :param detections: Of all canvases
    :param truth: ``(canvases, digits, 4)``
    :param labels: ``(canvases, digits)``
    """
    coco = COCO()
    boxes = to_xywh(truth)
    coco.dataset = {
        "info": {},
        "images": [{"id": canvas} for canvas in range(len(truth))],
        "categories": [{"id": label} for label in range(CLASSES)],
        "annotations": [
            {
                "id": canvas * truth.shape[1] + digit + 1,
                "image_id": canvas,
                "category_id": int(labels[canvas, digit]),
                "bbox": boxes[canvas, digit].tolist(),
                "area": float(boxes[canvas, digit, 2:].prod()),
                "iscrowd": 0,
            }
            for canvas in range(truth.shape[0])
            for digit in range(truth.shape[1])
        ],
    }
    found = detections.scores > 0
    if not found.any():
        return {"map": 0.0, "map50": 0.0}
    canvas = found.nonzero()[:, :1].cpu().numpy()
    parts = [
        to_xywh(detections.boxes[found]),
        *(side[found].cpu().numpy()[:, None] for side in (detections.scores, detections.labels)),
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        results = coco.loadRes(np.concatenate([canvas, *parts], axis=1).astype(np.float64))
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"map": float(evaluation.stats[0]), "map50": float(evaluation.stats[1])}


def to_xywh(boxes: Tensor) -> np.ndarray:
    """Return left, top, width, height as COCO has it."""
    array = boxes.cpu().numpy()
    return np.concatenate([array[..., :2], array[..., 2:] - array[..., :2]], axis=-1)
