"""The detector learns, its parts fit together, and the arms differ where the paper says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rl_coordconv.layers import CoordConv2d
from rl_coordconv.tasks.detection.boxes import encode, pairwise_iou
from rl_coordconv.tasks.detection.detector import Detector
from rl_coordconv.tasks.detection.digit_images import Digits, load_digits
from rl_coordconv.tasks.detection.proposals import (
    FirstStage,
    ProposalNetwork,
    ReleasedProposalNetwork,
    sample,
    smooth_l1,
)
from rl_coordconv.tasks.detection.scattered_digits import Canvases, make_canvases
from rl_coordconv.tasks.detection.training import DetectionConfig, measure
from rl_coordconv.tasks.experiment import Run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> tuple[Digits, Digits]:
    return load_digits(None)


def test_coordinates_go_where_the_paper_has_them() -> None:
    plain, coord = Detector(64, 8, False), Detector(64, 8, True)
    names = [name for name, module in coord.named_modules() if isinstance(module, CoordConv2d)]
    assert names == ["body.0", "head.0", "regressor"]
    assert not any(isinstance(module, CoordConv2d) for module in plain.modules())
    assert isinstance(coord.scorer, nn.Conv2d)


def test_scores_and_deltas_stand_in_the_anchors_order() -> None:
    detector = Detector(64, 4, False)
    for parameter in (detector.scorer.weight, detector.regressor.weight):
        nn.init.zeros_(parameter)
    with torch.no_grad():
        detector.scorer.bias.copy_(torch.arange(9.0))
        detector.regressor.bias.copy_(torch.arange(36.0))
    first = detector.first_stage(torch.zeros(2, 1, 64, 64))
    assert first.scores.shape == (2, 16 * 16 * 9)
    assert torch.equal(first.scores[1].view(256, 9), torch.arange(9.0).expand(256, 9))
    assert torch.equal(first.deltas[0].view(256, 9, 4), torch.arange(36.0).view(9, 4).expand(256, 9, 4))


def test_proposals_are_the_digits_when_the_first_stage_is_right() -> None:
    detector = Detector(64, 4, False)
    truth = torch.tensor([[[3.0, 4.0, 20.0, 24.0], [30.0, 30.0, 47.0, 52.0], [44.0, 2.0, 60.0, 20.0]]])
    overlaps = pairwise_iou(detector.anchors, truth)
    owner = overlaps.max(-1).indices
    deltas = encode(truth[0, owner[0]], detector.anchors)[None]
    first = FirstStage(torch.zeros(1), torch.where(overlaps.amax(-1) > 0.5, 5.0, -5.0), deltas)
    proposals, _ = detector.proposals(first, 0.7, 3)
    assert pairwise_iou(proposals, truth).amax(1).min() > 0.999


def test_samples_are_random_and_never_from_elsewhere() -> None:
    candidates = torch.zeros(2, 100, dtype=torch.bool)
    candidates[0, :5] = True
    candidates[1, 50:] = True
    chosen = sample(candidates, 16)
    assert torch.equal(chosen[0], candidates[0])
    assert chosen[1].sum() == 16
    assert not chosen[1, :50].any()
    assert not torch.equal(chosen[1], sample(candidates, 16)[1])


def test_no_boxes_no_loss() -> None:
    nothing = torch.zeros(0, 4, requires_grad=True)
    for loss in (smooth_l1(nothing), ReleasedProposalNetwork(64, 2, False).box_loss(nothing)):
        assert loss.item() == 0
        loss.backward()


def test_the_released_network_has_its_parts() -> None:
    network = ReleasedProposalNetwork(64, 32, True)
    names = [name for name, module in network.named_modules() if isinstance(module, CoordConv2d)]
    assert names == ["body.0", "head.0", "regressor.2"]
    first = network.first_stage(torch.rand(2, 1, 64, 64))
    assert first.features.shape == (2, 64, 13, 13)
    assert network.anchors.shape == (13 * 13 * 9, 4)
    assert torch.equal(first.deltas, torch.zeros_like(first.deltas))  # the regressor starts at zero
    # He's standard deviation from the image's 25 inputs, not from 75 with the coordinates'.
    layer = network.body[0]
    assert isinstance(layer, CoordConv2d)
    assert float(layer.weight.detach().std()) == pytest.approx((2 / 25) ** 0.5, rel=0.1)


@pytest.mark.parametrize("width", [18, 36])  # as many outputs as the regressor has
def test_only_the_released_regressor_starts_at_zero(width: int) -> None:
    network = ReleasedProposalNetwork(64, width, False)
    zero = [name for name, weight in network.named_parameters() if "weight" in name and not weight.any()]
    assert zero == ["regressor.2.weight"]


def test_the_released_box_loss() -> None:
    errors = torch.tensor([[0.1, -0.5, 1.0, -3.0], [0.0, 0.0, 2.0, 0.2]])
    expected = (0.01 + 0.25 + 1 + 3 + 0 + 0 + 2 + 0.04) / 2
    assert ReleasedProposalNetwork(64, 2, False).box_loss(errors).item() == pytest.approx(expected)


def test_the_released_scorer_has_a_logit_for_and_one_against_a_digit() -> None:
    network = ReleasedProposalNetwork(64, 4, False)
    hidden = network.head(network.body(images := torch.rand(2, 1, 64, 64)))
    logits = network.scorer(hidden).permute(0, 2, 3, 1).unflatten(-1, (2, 9))
    probability = logits.softmax(-2)[..., 0, :].flatten(1)
    assert torch.allclose(network.first_stage(images).scores.sigmoid(), probability, atol=1e-6)


def test_pairs_are_those_of_the_released_sampler() -> None:
    """Against its rules, one box and digit at a time."""
    torch.manual_seed(0)
    network = ReleasedProposalNetwork(64, 2, False)
    # Digits on and off the canvas; boxes near them, some of which leave it.
    truth = torch.tensor([[[5.0, 6, 25, 24], [7.0, 9, 27, 25], [50.0, 40, 70, 60], [90.0, 90, 110, 110]]])
    boxes = truth[:, torch.randint(3, (300,))] + 3 * torch.randn(1, 300, 4)
    pairs, negative = network.assign(boxes, truth)
    overlaps = pairwise_iou(boxes, truth)[0]
    best = overlaps.argmax(0).tolist()
    for place, box in enumerate(boxes[0]):
        inside = bool(box.min() >= 0) and bool(box.max() <= 63)
        expected = [best[digit] == place or (inside and overlaps[place, digit] > 0.5) for digit in range(4)]
        assert pairs[0, place].tolist() == [bool(pair) for pair in expected]
        none = inside and place not in best and bool((overlaps[place] < 0.1).all())
        assert bool(negative[0, place]) == none
    assert (pairs.sum(-1) > 1).any()  # two digits that overlap share boxes
    assert pairs[0, best[3], 3]  # a digit that no box touches has one
    far = network.assign(boxes - 20, truth)
    assert far[1].any()
    assert not far[1][(boxes - 20).amin(-1) < 0].any()


@pytest.mark.parametrize("network", [ProposalNetwork(64, 2, False), ReleasedProposalNetwork(64, 2, False)])
def test_anchors_stand_where_their_place_looks(network: ProposalNetwork) -> None:
    image = torch.zeros(1, 1, 64, 64, requires_grad=True)
    for module in network.body:
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1.0)
            nn.init.ones_(module.bias)  # type: ignore[arg-type]
        if isinstance(module, nn.MaxPool2d):
            module.forward = nn.AvgPool2d(2).forward  # type: ignore[method-assign]
    network.body(image)[0, 0, 5, 7].backward()
    assert image.grad is not None
    weight = image.grad[0, 0] / image.grad.sum()
    pixels = torch.arange(64) + 0.5
    looks_at = [float((weight.sum(axis) * pixels).sum()) for axis in (0, 1)]
    places = round(len(network.anchors) / 9) ** 0.5
    anchor = network.anchors.view(int(places), int(places), 9, 4)[5, 7, 0]
    assert ((anchor[:2] + anchor[2:]) / 2).tolist() == pytest.approx(looks_at, abs=1e-3)


def test_decoded_labels_follow_the_regressor_and_anchor_labels_do_not() -> None:
    digit = torch.tensor([[[20.0, 20.0, 40.0, 40.0]]])
    losses = {}
    for labels in ("anchors", "decoded"):
        torch.manual_seed(0)
        network = ProposalNetwork(64, 2, False, labels=labels)
        # Every box is moved onto the digit: decoded, each is positive, so there is no negative to score.
        deltas = encode(digit[0], network.anchors)[None]
        scores = torch.where(pairwise_iou(network.anchors, digit[0])[:, 0] < 0.1, 9.0, -9.0)[None]
        losses[labels] = network.proposal_losses(FirstStage(scores, scores, deltas), digit)
    assert float(losses["decoded"]["box"]) == pytest.approx(0, abs=1e-4)
    assert float(losses["anchors"]["box"]) == pytest.approx(0, abs=1e-4)
    # By anchors, the far ones are negatives scored as digits, the near ones positives that were not.
    assert float(losses["anchors"]["score"]) == pytest.approx(9, abs=0.1)
    assert float(losses["decoded"]["score"]) < 9


def first_and_last_losses(
    network: ProposalNetwork, optimizer: torch.optim.Optimizer, canvases: Canvases, steps: int
) -> list[dict[str, float]]:
    """Train on the same canvases; return the mean losses of the first five and of the last five steps."""
    history = []
    for _ in range(steps):
        losses = network.losses(canvases.images / 255, canvases.boxes, canvases.labels)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        history.append({key: loss.item() for key, loss in losses.items()})
    return [
        {key: sum(part[key] for part in parts) / 5 for key in losses} for parts in (history[:5], history[-5:])
    ]


@pytest.mark.parametrize("coordinates", [False, True])
def test_losses_fall_on_a_few_canvases(digits: tuple[Digits, Digits], coordinates: bool) -> None:
    torch.manual_seed(0)
    canvases = make_canvases(digits[0], 4, 64, 5, seed=0)
    detector = Detector(64, 8, coordinates)
    optimiser = torch.optim.Adam(detector.parameters(), 3e-3)
    early, late = first_and_last_losses(detector, optimiser, canvases, 100)
    # The second stage's target moves: as proposals improve, more of them are digits, harder than background.
    for key in ("score", "box"):
        assert late[key] < 0.8 * early[key], key
    assert sum(late.values()) < 0.7 * sum(early.values())


def test_released_losses_fall_on_cropped_canvases(digits: tuple[Digits, Digits]) -> None:
    torch.manual_seed(0)
    canvases = make_canvases(digits[0], 4, 64, 5, 0, "cropped")
    config = DetectionConfig(width=8, detector="released", scenes="cropped", labels="decoded", lr=0.003)
    network = config.make_network("coordconv")
    optimizer = torch.optim.SGD(network.parameters(), 0.003, momentum=0.9)
    early, late = first_and_last_losses(network, optimizer, canvases, 60)
    assert late["score"] < 0.9 * early["score"]


@pytest.mark.slow
def test_a_short_training_finds_digits_and_logs_them(
    digits: tuple[Digits, Digits], make_run: Callable[..., Run], tmp_path: Path
) -> None:
    config = DetectionConfig(train_canvases=1200, test_canvases=100, width=8, epochs=2, batch_size=6, lr=3e-3)
    torch.manual_seed(1)
    untrained = measure(Detector(64, 8, True), make_canvases(digits[1], 100, 64, 5, 9), CPU)[0]
    outcome = config.train(make_run("coordconv"))
    assert outcome.numbers["map50"] is not None
    assert untrained["map50"] is not None
    assert outcome.numbers["map50"] > untrained["map50"] + 0.1
    assert outcome.numbers["proposal_iou"] is not None
    assert outcome.numbers["proposal_iou"] > 0.3
    assert outcome.samples["images"].shape == (8, 64, 64)
    assert any(tmp_path.glob("events.out.tfevents.*"))


def test_measurements_do_not_depend_on_the_batch(digits: tuple[Digits, Digits]) -> None:
    torch.manual_seed(0)
    test = make_canvases(digits[1], 6, 64, 5, seed=3)
    detector = Detector(64, 4, True).eval()
    whole = detector.detect(test.images / 255)
    alone = detector.detect(test.images[2:3] / 255)
    for field in dataclasses.fields(whole):
        expected = getattr(whole, field.name)[2:3]
        assert torch.allclose(getattr(alone, field.name), expected, atol=1e-4)
