"""Detection of scattered digits: one training run, and its measurements on canvases of unseen digits."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rl_coordconv.errors import UserError, choose
from rl_coordconv.layers import COORD_INITS
from rl_coordconv.tasks.detection.detector import Detector
from rl_coordconv.tasks.detection.digit_images import Digits, load_digits
from rl_coordconv.tasks.detection.figures import draw_detection
from rl_coordconv.tasks.detection.metrics import (
    SHOWN_SCORE,
    best_iou,
    iou_of_boxes,
    matched_numbers,
    mean_average_precision,
)
from rl_coordconv.tasks.detection.proposals import (
    DETECTIONS,
    LABELS,
    PAPER_NMS,
    Detections,
    ProposalNetwork,
    ReleasedProposalNetwork,
    label_text,
)
from rl_coordconv.tasks.detection.scattered_digits import SCENES, Canvases, check_canvas, make_canvases
from rl_coordconv.tasks.experiment import Experiment, Outcome, Run
from rl_coordconv.tasks.networks import count_parameters
from rl_coordconv.tasks.seed_statistics import Numbers

TEST_SEED_STEP = 1_000_000
SHOWN = 8
ARMS = ("plain", "coordconv")
DETECTORS: dict[str, type[ProposalNetwork]] = {"two-stage": Detector, "released": ReleasedProposalNetwork}
OPTIMIZERS = ("adam", "sgd")


@dataclass(kw_only=True)
class DetectionConfig(Experiment):
    """Train digit detectors, plain and with CoordConv.

    Args:
        name: Folder of the experiment, inside of output
        output: Folder of all experiments
        seeds: One run per arm each
        device: auto, cpu, cuda or cuda:N
        digits: Folder with MNIST's four IDX files (default: scikit-learn's handwritten digits)
        canvas_size: Height and width of a canvas in pixels, a multiple of 4
        per_canvas: Digits on a canvas
        train_canvases: Canvases to learn from (9000 in the paper)
        test_canvases: Canvases to measure on (1000 in the paper)
        width: Channels of the first convolution (32 in the paper)
        epochs: Passes through the training canvases
        batch_size: Canvases per training step (1 in the paper)
        lr: Learning rate at the start (0.001 in the released code)
        optimizer: adam, whose rate falls to 0 along a cosine, or sgd with momentum 0.9 at a constant rate
            (the released code's)
        detector: two-stage, or released: the proposal network of the paper's released code, without classes
        scenes: inside (whole digits that hardly overlap), cropped as the paper's data, with boxes that reach
            off the canvas, or uncropped: drawn like those on the canvas itself, nothing cut off
        labels: What is compared with digits in training: anchors, or decoded boxes as in the released code
        coord_init: Start of the coordinates' weights: concat (as others) or zeros
    """

    measurements: ClassVar[tuple[str, ...]] = (
        "proposal_iou",
        "released_iou",
        "iou@0.5",
        "recall@0.5",
        "iou@0.7",
        "recall@0.7",
        "map",
        "map50",
    )

    name: str = "detection"
    digits: Path | None = None
    canvas_size: int = 64
    per_canvas: int = 5
    train_canvases: int = 9_000
    test_canvases: int = 1_000
    width: int = 16
    epochs: int = 3
    batch_size: int = 16
    lr: float = 1e-3
    optimizer: str = "adam"
    detector: str = "two-stage"
    scenes: str = "inside"
    labels: str = "anchors"
    coord_init: str = "concat"

    def check(self) -> None:
        """Refuse options that cannot be run, before anything is written."""
        choose("optimizer", self.optimizer, OPTIMIZERS)
        choose("detector", self.detector, DETECTORS)
        choose("scenes", self.scenes, SCENES)
        choose("labels", self.labels, LABELS)
        choose("coord_init", self.coord_init, COORD_INITS)
        super().check()
        if (self.scenes, self.detector) == ("cropped", "two-stage"):
            raise UserError("scenes cropped has boxes off the canvas: it needs --detector released")
        if self.per_canvas > DETECTIONS:
            raise UserError(
                f"per_canvas is {self.per_canvas}: the detector finds {DETECTIONS} digits at most"
            )
        check_canvas(self.canvas_size, self.per_canvas)

    @property
    def steps(self) -> int:
        """Training steps of one run."""
        return self.epochs * math.ceil(self.train_canvases / self.batch_size)

    @property
    def arms(self) -> tuple[str, ...]:
        return ARMS

    @property
    def title(self) -> str:
        return f"Detection, {self.train_canvases} canvases, {self.epochs} epochs"

    @functools.cached_property
    def pictures(self) -> tuple[Digits, Digits]:
        """The digits for training and those for testing."""
        return load_digits(self.digits)

    def facts(self) -> dict[str, Any]:
        counts = {arm: count_parameters(self.make_network(arm)) for arm in ARMS}
        train, test = self.pictures
        return {"parameters": counts, "digits": {"train": len(train), "test": len(test)}}

    def make_network(self, arm: str) -> ProposalNetwork:
        """Return a new network of an arm."""
        return DETECTORS[self.detector](
            self.canvas_size,
            self.width,
            arm == "coordconv",
            labels=self.labels,
            coord_init=self.coord_init,  # type: ignore[arg-type]  # checked
        )

    def make_optimizer(
        self, network: ProposalNetwork
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return the optimizer and the schedule of its learning rate."""
        if self.optimizer == "sgd":
            sgd = torch.optim.SGD(network.parameters(), self.lr, momentum=0.9)
            return sgd, torch.optim.lr_scheduler.ConstantLR(sgd, 1)
        adam = torch.optim.Adam(network.parameters(), self.lr)
        # At a constant rate boxes keep jumping by a pixel from step to step, which hides what arms differ by.
        return adam, torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)

    def train(self, run: Run) -> Outcome:
        """
        Train one arm with one seed.

        :param run: Arm, seed, device, TensorBoard and progress bar
        :return: Measurements after the last epoch; canvases with their detections for the figure
        """
        digits, test_digits = self.pictures
        sizes = (self.canvas_size, self.per_canvas)
        canvases = make_canvases(digits, self.train_canvases, *sizes, run.seed, self.scenes)
        test_seed = run.seed + TEST_SEED_STEP
        test = make_canvases(test_digits, self.test_canvases, *sizes, test_seed, self.scenes)
        detector = self.make_network(run.arm).to(run.device)
        optimizer, schedule = self.make_optimizer(detector)
        step = 0
        for _ in range(self.epochs):
            for batch in torch.randperm(len(canvases)).split(self.batch_size):
                losses = detector.losses(*to_device(canvases, batch, run.device))
                total = torch.stack(list(losses.values())).sum()
                optimizer.zero_grad(set_to_none=True)
                total.backward()
                optimizer.step()
                schedule.step()
                step += 1
                if step % 20 == 0:
                    for key, value in losses.items():
                        run.writer.add_scalar(f"loss/{key}", value, step)
                run.show_progress(step, self.steps, "loss {:.3f}", total)
            numbers, detections = measure(detector, test, run.device)
            log(run, step, numbers, test, detections)
        samples = {
            "images": test.images[:SHOWN, 0].numpy(),
            "truth": test.boxes[:SHOWN].numpy(),
            "boxes": detections.boxes[:SHOWN].numpy(),
            "scores": detections.scores[:SHOWN].numpy(),
            "labels": detections.labels[:SHOWN].numpy(),
        }
        return Outcome(numbers, samples)

    def draw(self, results: dict[str, Any]) -> None:
        draw_detection(self, results)


def to_device(canvases: Canvases, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch as the detector takes it: images in [0, 1], boxes, labels."""
    images, boxes, labels = (
        side[index].to(device) for side in (canvases.images, canvases.boxes, canvases.labels)
    )
    return images.float() / 255, boxes, labels


@torch.no_grad()
def measure(network: ProposalNetwork, test: Canvases, device: torch.device) -> tuple[Numbers, Detections]:
    """
    Return all measurements on test canvases, and the detections on the CPU.

    Of ten proposals (suppression at 0.8), ``proposal_iou`` takes the best for each digit and averages over
    digits; ``released_iou``, as the released code does, the best digit for each and averages over proposals.

    :param network: Trained; without a second stage, what needs one is None
    :param test: Canvases
    :param device: Where the network is
    """
    proposed, found = [], []
    for index in torch.arange(len(test)).split(250):
        images = to_device(test, index, device)[0]
        proposed.append(network.proposals(network.first_stage(images), PAPER_NMS, DETECTIONS))
        found.append(network.detect(images))
    proposals, scores = (torch.cat(parts).cpu() for parts in zip(*proposed, strict=True))
    detections = Detections(
        *(torch.cat([getattr(part, key) for part in found]).cpu() for key in ("boxes", "scores", "labels"))
    )
    numbers: Numbers = {
        "proposal_iou": best_iou(proposals, test.boxes),
        "released_iou": iou_of_boxes(proposals, scores, test.boxes),
    }
    numbers |= matched_numbers(detections, test.boxes)
    if isinstance(network, Detector):
        numbers |= mean_average_precision(detections, test.boxes, test.labels)
    else:
        numbers |= {"map": None, "map50": None}
    return numbers, detections


def log(run: Run, step: int, numbers: Numbers, test: Canvases, detections: Detections) -> None:
    """Write measurements, and canvases with the detections drawn in, to TensorBoard."""
    for key, value in numbers.items():
        if value is not None:
            run.writer.add_scalar(f"test/{key}", value, step)
    for index in range(min(SHOWN, len(test))):
        shown = detections.scores[index] >= SHOWN_SCORE
        labels = list(map(label_text, detections.labels[index][shown].tolist()))
        image = np.repeat(np.repeat(test.images[index].numpy(), 4, axis=1), 4, axis=2).repeat(3, axis=0)
        boxes = detections.boxes[index][shown].numpy() * 4
        run.writer.add_image_with_boxes(f"canvas{index}", image, boxes, step, labels=labels)
