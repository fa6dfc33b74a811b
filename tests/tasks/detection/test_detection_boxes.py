"""Box operators against values worked out by hand, pycocotools, and ONNX Runtime's operators."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from pycocotools import mask as coco_mask
from torch import Tensor

from rl_coordconv.tasks.detection.boxes import (
    decode,
    encode,
    make_anchors,
    pairwise_iou,
    roi_align,
    top_boxes,
)


def random_boxes(*shape: int, size: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, 2, generator=generator) * (size - 4)
    low, high = corners.min(-2).values, corners.max(-2).values + 2
    return torch.cat([low, high], dim=-1)


def onnx_operator(name: str, inputs: dict[str, np.ndarray], **attributes: object) -> np.ndarray:
    """Run one operator of ONNX Runtime."""
    node = helper.make_node(name, list(inputs), ["out"], **attributes)
    types = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("int64"): TensorProto.INT64}
    values = [
        helper.make_tensor_value_info(key, types[value.dtype], value.shape) for key, value in inputs.items()
    ]
    out_type = TensorProto.INT64 if name == "NonMaxSuppression" else TensorProto.FLOAT
    graph = helper.make_graph([node], "one", values, [helper.make_tensor_value_info("out", out_type, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    return np.asarray(onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)[0])


def test_iou_of_boxes_worked_out_by_hand() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    others = torch.tensor(
        [[0, 0, 10, 10], [5, 0, 15, 10], [5, 5, 15, 15], [10, 0, 20, 10], [2, 2, 7, 7], [3, 3, 3, 3]]
    )
    expected = [1, 50 / 150, 25 / 175, 0, 25 / 100, 0]
    assert pairwise_iou(box, others.float())[0].tolist() == pytest.approx(expected)
    assert pairwise_iou(others[-1:].float(), others[-1:].float()).item() == 0


def test_iou_equals_pycocotools() -> None:
    first, second = random_boxes(3, 20), random_boxes(3, 30, seed=1)
    ours = pairwise_iou(first, second)
    for mine, one, other in zip(ours, first.double(), second.double(), strict=True):
        xywh = [torch.cat([side[:, :2], side[:, 2:] - side[:, :2]], dim=1).numpy() for side in (one, other)]
        assert np.allclose(mine, coco_mask.iou(xywh[0], xywh[1], [0] * 30), atol=1e-5)


def test_nms_keeps_what_only_a_suppressed_box_overlaps() -> None:
    # The first suppresses the second; the third overlaps the second only, so it stays.
    chain = torch.tensor([[[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10], [0.5, 0, 10.5, 10]]])
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    kept, kept_scores = top_boxes(chain, scores, 0.3, 4)
    assert torch.equal(kept[0, :2], chain[0, [0, 2]])
    assert kept_scores[0, 2:].tolist() == [-torch.inf] * 2
    assert torch.equal(top_boxes(chain, scores, 0.95, 4)[1], scores)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8])
def test_nms_equals_onnx_runtime_on_crowded_boxes(threshold: float) -> None:
    boxes = random_boxes(4, 300, seed=2)
    scores = torch.rand(4, 300, generator=torch.Generator().manual_seed(3))
    kept, kept_scores = top_boxes(boxes, scores, threshold, 300)
    limits = {
        "most": np.array([300]),
        "iou": np.array([threshold], dtype=np.float32),
        "score": np.array([-1], dtype=np.float32),
    }
    selected = onnx_operator(
        "NonMaxSuppression", {"boxes": boxes.numpy(), "scores": scores[:, None].numpy(), **limits}
    )
    for image in range(4):
        expected = selected[selected[:, 0] == image, 2]
        valid = kept_scores[image] > -torch.inf
        assert torch.equal(kept[image, valid], boxes[image, expected])
        assert torch.equal(kept_scores[image, valid], scores[image, expected])


def test_top_boxes_returns_the_best_first_and_no_more_than_asked() -> None:
    boxes = torch.tensor([[[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [0, 0, 9, 8]]])
    scores = torch.tensor([[0.2, 0.9, 0.5, 0.3]])
    kept, kept_scores = top_boxes(boxes.float(), scores, 0.5, 2)
    assert kept.tolist() == [[[20, 0, 29, 9], [40, 0, 49, 9]]]
    assert kept_scores[0].tolist() == pytest.approx([0.9, 0.5])


def test_regression_targets_worked_out_by_hand_and_inverted() -> None:
    anchor = torch.tensor([[10.0, 10.0, 30.0, 20.0]])
    box = torch.tensor(
        [[14.0, 10.0, 34.0, 30.0]]
    )  # centre 4 right of 20 wide, 5 below of 10 high; twice as high
    assert encode(box, anchor)[0].tolist() == pytest.approx([0.2, 0.5, 0, np.log(2)])
    boxes, anchors = random_boxes(50, seed=4), random_boxes(50, seed=5)
    assert torch.allclose(decode(encode(boxes, anchors), anchors, 64), boxes, atol=1e-3)


def test_decoded_boxes_stay_inside_of_the_image_and_finite() -> None:
    boxes = decode(torch.tensor([[5.0, -5.0, 1000.0, 1000.0]]), torch.tensor([[0.0, 0.0, 20.0, 20.0]]), 64)
    assert boxes.isfinite().all()
    assert boxes.min() >= 0
    assert boxes.max() <= 64


def test_anchors_stand_on_every_place_in_every_shape() -> None:
    anchors = make_anchors(torch.arange(2.0, 64, 4), (15, 20, 25)).view(16, 16, 9, 4)
    assert anchors[0, 0, 0].tolist() == [2 - 7.5, 2 - 7.5, 2 + 7.5, 2 + 7.5]
    middles = (anchors[..., :2] + anchors[..., 2:]) / 2
    assert torch.equal(middles[3, 5], torch.tensor([22.0, 14.0]).expand(9, 2))
    sizes = {tuple(pair) for pair in (anchors[7, 7, :, 2:] - anchors[7, 7, :, :2]).tolist()}
    assert sizes == {(width, height) for width in (15, 20, 25) for height in (15, 20, 25)}


def test_roi_align_of_a_ramp_is_the_bin_centres() -> None:
    # Bilinear sampling of a linear function is exact: each bin holds its centre's coordinate.
    y, x = torch.meshgrid(torch.arange(16.0) + 0.5, torch.arange(16.0) + 0.5, indexing="ij")
    boxes = torch.tensor([[[8.0, 12.0, 36.0, 40.0]]])
    out = roi_align(torch.stack([x, y])[None] * 4, boxes, stride=4, bins=7)[0, 0]
    assert torch.allclose(out[0], (8 + 4 * (torch.arange(7.0) + 0.5)).expand(7, 7), atol=1e-4)
    assert torch.allclose(out[1], (12 + 4 * (torch.arange(7.0) + 0.5)).unsqueeze(1).expand(7, 7), atol=1e-4)


def test_roi_align_equals_onnx_runtime() -> None:
    features = torch.randn(3, 5, 16, 16, generator=torch.Generator().manual_seed(6))
    boxes = random_boxes(3, 10, seed=7)
    ours = roi_align(features, boxes, stride=4, bins=7)
    theirs = onnx_operator(
        "RoiAlign",
        {
            "features": features.numpy(),
            "boxes": boxes.flatten(0, 1).numpy(),
            "images": np.arange(3).repeat(10),
        },
        output_height=7,
        output_width=7,
        sampling_ratio=2,
        spatial_scale=0.25,
        coordinate_transformation_mode="half_pixel",
        mode="avg",
    )
    assert np.allclose(ours.flatten(0, 1), theirs, atol=1e-4)
