"""Detection metrics on constructed detections with known answers."""

from __future__ import annotations

import pytest
import torch

from rl_coordconv.tasks.detection.metrics import (
    best_iou,
    iou_of_boxes,
    match,
    matched_numbers,
    mean_average_precision,
)
from rl_coordconv.tasks.detection.proposals import Detections

TRUTH = torch.tensor([[[0, 0, 10, 10], [30, 30, 50, 50]], [[5, 5, 25, 25], [40, 0, 60, 20]]]).float()
LABELS = torch.tensor([[1, 2], [3, 1]])


def detections(boxes: torch.Tensor, scores: object, labels: torch.Tensor) -> Detections:
    return Detections(boxes.float(), torch.as_tensor(scores).float().expand(boxes.shape[:2]), labels)


def test_perfect_detections_score_one() -> None:
    found = detections(TRUTH, 0.9, LABELS)
    assert best_iou(TRUTH, TRUTH) == 1
    assert set(matched_numbers(found, TRUTH).values()) == {1.0}
    assert mean_average_precision(found, TRUTH, LABELS) == {
        "map": pytest.approx(1),
        "map50": pytest.approx(1),
    }


def test_right_boxes_of_the_wrong_class_fit_but_have_no_precision() -> None:
    found = detections(TRUTH, 0.9, (LABELS + 5) % 10)
    assert set(matched_numbers(found, TRUTH).values()) == {1.0}
    assert mean_average_precision(found, TRUTH, LABELS)["map50"] == 0


def test_boxes_of_known_overlap_match_up_to_it_and_not_above() -> None:
    shifted = TRUTH.clone()
    shifted[..., 3] -= 0.38 * (TRUTH[..., 3] - TRUTH[..., 1])  # the upper 62 %: IOU 0.62
    numbers = matched_numbers(detections(shifted, 0.9, LABELS), TRUTH)
    assert numbers["iou@0.3"] == numbers["iou@0.5"] == pytest.approx(0.62)
    assert numbers["recall@0.5"] == 1
    assert numbers["iou@0.7"] is None
    assert numbers["recall@0.7"] == 0
    # COCO averages over IOU 0.50, 0.55, ... 0.95: the first three of ten are below 0.62.
    precision = mean_average_precision(detections(shifted, 0.9, LABELS), TRUTH, LABELS)
    assert precision == {"map": pytest.approx(0.3), "map50": pytest.approx(1)}


def test_a_digit_is_matched_once_by_the_best_score() -> None:
    close = torch.tensor([0.0, 0.0, 10.0, 9.0])
    boxes = torch.stack([torch.stack([close, TRUTH[0, 0], TRUTH[0, 1]])])
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    matched = match(detections(boxes, scores, torch.zeros(1, 3)), TRUTH[:1], 0.5)
    assert matched[0].tolist() == pytest.approx([0.9, 0, 1])


def test_unsure_detections_do_not_count_as_matches() -> None:
    numbers = matched_numbers(detections(TRUTH, 0.4, LABELS), TRUTH)
    assert numbers["recall@0.3"] == 0
    assert numbers["iou@0.3"] is None


def test_half_of_the_digits_missed() -> None:
    found = detections(TRUTH[:, :1], 0.9, LABELS[:, :1])
    numbers = matched_numbers(found, TRUTH)
    assert numbers["recall@0.5"] == 0.5
    assert numbers["iou@0.5"] == 1
    # Class 1: one of two found (precision 1 up to recall 0.5: 51 of COCO's 101 points); 2: none; 3: all.
    assert mean_average_precision(found, TRUTH, LABELS)["map50"] == pytest.approx((51 / 101 + 0 + 1) / 3)
    assert best_iou(TRUTH[:, :1], TRUTH) == 0.5


def test_no_detections_at_all() -> None:
    found = detections(TRUTH, 0.0, LABELS)
    assert mean_average_precision(found, TRUTH, LABELS) == {"map": 0, "map50": 0}


def test_the_released_iou_averages_over_boxes_and_ours_over_digits() -> None:
    # Two boxes on the first digit, one of them shifted by half its width (IOU 1/3); none on the second.
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10]]])
    scores = torch.tensor([[1.0, 0.5, -torch.inf]])
    assert iou_of_boxes(boxes, scores, TRUTH[:1]) == pytest.approx((1 + 1 / 3) / 2)
    assert best_iou(boxes, TRUTH[:1]) == pytest.approx(0.5)
