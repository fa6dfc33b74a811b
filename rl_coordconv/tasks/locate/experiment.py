"""What both ways to learn where a square is share: arms, squares, measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rl_coordconv.envs.contract import SCREEN_SIZE
from rl_coordconv.errors import UserError, choose
from rl_coordconv.extractors import EXTRACTORS, check_extractor, policy_kwargs
from rl_coordconv.tasks.experiment import Experiment, Outcome, Run
from rl_coordconv.tasks.figures import save
from rl_coordconv.tasks.locate.figure import locate_figure
from rl_coordconv.tasks.networks import count_parameters
from rl_coordconv.tasks.seed_statistics import Numbers
from rl_coordconv.tasks.toy.not_so_clevr import SPLITS, NotSoClevr

LITERAL: dict[str, Any] = {"coord_init": "concat", "coord_scale": 1.0}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn": ("cnn", {}),
    "coordconv": ("coordconv", {}),
    "literal": ("coordconv", {"coord_layers": [2]} | LITERAL),
    "nature-pool": ("nature-pool", {}),
    "coordconv-nature-pool": ("coordconv-nature-pool", {}),
    "pool-all-layers": ("coordconv-nature-pool", {"coord_layers": [0, 1, 2]}),
    "pool-literal": ("coordconv-nature-pool", LITERAL),
}
"""Extractor and options by arm; an extractor's own name is an arm too."""

BLOCK = 4
"""Pixels, across and down, whose errors are one field of the figure's map."""

PART = 256
"""Images that are asked for at once."""


@dataclass(kw_only=True)
class SquareExperiment(Experiment):
    """
    An experiment on squares at places that are trained on, and at others.

    :param extractors: Arms: names of :data:`~rl_coordconv.EXTRACTORS` or of :data:`ARMS`
    :param split: quadrant or uniform
    :param canvas: Side of the image in pixels
    :param square: Side of the square in pixels
    """

    measurements: ClassVar[tuple[str, ...]] = ("train_error", "test_error", "test_worst", "parameters")
    free: ClassVar[tuple[str, ...]] = (*Experiment.free, "extractors")

    extractors: list[str] = field(default_factory=lambda: list(ARMS))
    split: str = "quadrant"
    canvas: int = SCREEN_SIZE
    square: int = 9

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.extractors))

    @property
    def folder(self) -> Path:
        """Where the experiment lives: ``<output>/<name>/<split>``."""
        return super().folder / self.split

    @property
    def data(self) -> NotSoClevr:
        """The squares."""
        return NotSoClevr(self.canvas, self.square)

    def check(self) -> None:
        """Refuse options that cannot be run, before anything is written."""
        choose("split", self.split, SPLITS)
        super().check()
        if not self.extractors:
            raise UserError("extractors is empty: give one or more")
        for arm in self.arms:
            choose("extractor", arm, dict.fromkeys((*EXTRACTORS, *ARMS)))
            name, options = ARMS.get(arm, (arm, {}))
            check_extractor(name, options, image_space(self.data))

    def facts(self) -> dict[str, Any]:
        return {}

    def outcome(self, run: Run, network: nn.Module, pointed: Callable[[Tensor], Tensor]) -> Outcome:
        """
        Measure how many pixels a trained network misses all centres by.

        :param run: Its run
        :param network: Whose parameters are counted
        :param pointed: Centres, ``(batch, 2) int64``, to what it says of them, in pixels
        :return: Errors over the places trained on and those held out, and their map
        """
        splits = dict(zip(("train", "test"), self.data.split(self.split, run.seed), strict=True))
        errors = {name: errors_of(pointed, centres.to(run.device)) for name, centres in splits.items()}
        numbers: Numbers = {
            "train_error": float(errors["train"].mean()),
            "test_error": float(errors["test"].mean()),
            "test_worst": float(errors["test"].max()),
            "parameters": count_parameters(network),
        }
        everywhere = torch.cat([*splits.values()]).numpy()
        blocks = block_means(everywhere, torch.cat([*errors.values()]).cpu().numpy(), self.data)
        return Outcome(numbers, {"error_map": blocks})

    def kept(self, seed: int) -> tuple[str, ...]:
        return ("error_map",)

    def draw(self, results: dict[str, Any]) -> None:
        save(locate_figure(results), self.folder)


def arm_kwargs(arm: str) -> dict[str, Any]:
    """Return the ``policy_kwargs`` of an arm."""
    name, options = ARMS.get(arm, (arm, {}))
    return policy_kwargs(name, **options)


def image_space(data: NotSoClevr) -> spaces.Box:
    """Return the space of images with one channel, ``(1, canvas, canvas) uint8``."""
    return spaces.Box(0, 255, (1, data.canvas, data.canvas), np.uint8)


@torch.no_grad()
def errors_of(pointed: Callable[[Tensor], Tensor], centres: Tensor) -> Tensor:
    """Return how many pixels each centre is missed by, ``(samples,) float32``."""
    return torch.cat([(pointed(part) - part).norm(dim=1) for part in centres.split(PART)])


def block_means(centres: np.ndarray, errors: np.ndarray, data: NotSoClevr) -> np.ndarray:
    """Return the mean errors of blocks of 4 x 4 centres, ``(rows, columns)``."""
    x, y = (centres - data.square // 2).T // BLOCK
    side = -(-(data.canvas - data.square + 1) // BLOCK)
    sums, counts = np.zeros((2, side, side))
    np.add.at(sums, (y, x), errors)
    np.add.at(counts, (y, x), 1)
    return sums / counts
