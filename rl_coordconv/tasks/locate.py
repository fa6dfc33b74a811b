"""
How exactly features extractors tell where something is: a square in an image of Atari's size, in pixels.

The regression task of Liu et al. 2018 (section 2), asked of the networks that RL agents have: in front of a
linear layer, an extractor of ``EXTRACTORS`` learns the centre of a square, and is asked for centres that it
has not been trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from rl_coordconv.envs.contract import SCREEN_SIZE
from rl_coordconv.errors import choose
from rl_coordconv.extractors import EXTRACTORS, check_extractor, policy_kwargs
from rl_coordconv.tasks.experiment import Experiment, Outcome, Run, array_from_json
from rl_coordconv.tasks.figures import draw_measurements, measurements_size, save
from rl_coordconv.tasks.networks import count_parameters
from rl_coordconv.tasks.seed_statistics import Numbers
from rl_coordconv.tasks.toy.not_so_clevr import SPLITS, NotSoClevr
from rl_coordconv.tasks.toy.tasks import Regression

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

PER_ROW = 4
BLOCK = 4
"""Pixels, across and down, whose errors are one field of the figure's map."""


@dataclass(kw_only=True)
class LocateConfig(Experiment):
    """Let features extractors say where a square is, also where they have never seen one.

    Args:
        extractors: Arms: names of extractors; also literal and pool-literal, which are coordconv and
            coordconv-nature-pool with the paper's literal layer as their last convolution, and
            pool-all-layers, which has coordinates in all three
        split: quadrant (a quarter of the canvas held out) or uniform (20 % held out at random)
        canvas: Side of the image in pixels
        square: Side of the square in pixels
        updates: Updates of a run
        batch_size: Images per update
        lr: Adam's learning rate at the start, which falls to 0 over the updates as a cosine
        seeds: One run per arm each
        device: auto, cpu, cuda or cuda:N
        name: Folder of the experiments, inside of output
        output: Folder for curves, results and figures
    """

    measurements: ClassVar[tuple[str, ...]] = ("train_error", "test_error", "test_worst", "parameters")
    free: ClassVar[tuple[str, ...]] = (*Experiment.free, "extractors")

    extractors: list[str] = field(default_factory=lambda: list(ARMS))
    split: str = "quadrant"
    canvas: int = SCREEN_SIZE
    square: int = 9
    updates: int = 600
    batch_size: int = 64
    lr: float = 2e-3
    name: str = "locate"

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.extractors))

    @property
    def title(self) -> str:
        return f"where is the square? {self.split} split, {self.canvas} pixels; errors in pixels"

    @property
    def folder(self) -> Path:
        """Where the experiment lives: ``<output>/<name>/<split>``."""
        return super().folder / self.split

    def check(self) -> None:
        """Refuse options that cannot be run, before anything is written."""
        choose("split", self.split, SPLITS)
        super().check()
        NotSoClevr(self.canvas, self.square)
        for arm in self.arms:
            choose("extractor", arm, dict.fromkeys((*EXTRACTORS, *ARMS)))
            check_extractor(*arm_of(arm), image_space(self.canvas))

    def facts(self) -> dict[str, Any]:
        return {}

    def train(self, run: Run) -> Outcome:
        data = NotSoClevr(self.canvas, self.square)
        task = Regression(data)
        train, test = (centres.to(run.device) for centres in data.split(self.split, run.seed))
        network = make_network(run.arm, self.canvas).to(run.device)
        optimizer = torch.optim.Adam(network.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.updates)
        order = torch.Generator().manual_seed(run.seed)  # all arms see the same images
        for update in range(self.updates):
            centres = train[torch.randint(len(train), (self.batch_size,), generator=order).to(run.device)]
            loss = task.loss(network, centres)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            run.show_progress(update + 1, self.updates, "loss {:.4f}", loss)
            if update % 10 == 0:
                run.writer.add_scalar("loss", loss, update)
        errors = {"train": errors_of(network, task, train), "test": errors_of(network, task, test)}
        for name, values in errors.items():
            run.writer.add_scalar(f"{name}_error", values.mean(), self.updates)
        numbers: Numbers = {
            "train_error": float(errors["train"].mean()),
            "test_error": float(errors["test"].mean()),
            "test_worst": float(errors["test"].max()),
            "parameters": count_parameters(network),
        }
        everywhere = torch.cat([train, test]).cpu().numpy()
        blocks = block_means(everywhere, torch.cat([*errors.values()]).cpu().numpy(), data)
        return Outcome(numbers, {"error_map": blocks})

    def kept(self, seed: int) -> tuple[str, ...]:
        return ("error_map",)

    def draw(self, results: dict[str, Any]) -> None:
        save(locate_figure(results), self.folder)


def arm_of(arm: str) -> tuple[str, dict[str, Any]]:
    """Return the extractor of an arm and its options."""
    return ARMS.get(arm, (arm, {}))


def image_space(canvas: int) -> spaces.Box:
    """Return the space of images with one channel."""
    return spaces.Box(0, 255, (1, canvas, canvas), np.uint8)


def make_network(arm: str, canvas: int) -> nn.Module:
    """Return a new extractor with a linear layer behind it, which gives ``(batch, 2)`` in [-1, 1]."""
    name, options = arm_of(arm)
    kwargs = policy_kwargs(name, **options)
    extractor = kwargs["features_extractor_class"](image_space(canvas), **kwargs["features_extractor_kwargs"])
    network = nn.Sequential(extractor, nn.Linear(extractor.features_dim, 2))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return network


@torch.no_grad()
def errors_of(network: nn.Module, task: Regression, centres: Tensor) -> Tensor:
    """Return how many pixels each centre is missed by, ``(samples,) float32``."""
    return torch.cat([task.errors(task.predict(network, part), part) for part in centres.split(256)])


def block_means(centres: np.ndarray, errors: np.ndarray, data: NotSoClevr) -> np.ndarray:
    """Return the mean errors of blocks of 4 x 4 centres, ``(rows, columns)``."""
    x, y = (centres - data.square // 2).T // BLOCK
    side = -(-(data.canvas - data.square + 1) // BLOCK)
    sums, counts = np.zeros((2, side, side))
    np.add.at(sums, (y, x), errors)
    np.add.at(counts, (y, x), 1)
    return sums / counts


def locate_figure(results: dict[str, Any]) -> Figure:
    """
    Draw where each arm errs, means over seeds in one scale of colours, and the measurements below.

    :param results: A ``results.json``
    """
    options, runs = results["options"], results["samples"]
    maps = {
        arm: np.mean([array_from_json(kept["error_map"]) for kept in by_seed.values()], axis=0)
        for arm, by_seed in runs.items()
    }
    parameters = {arm: numbers["parameters"]["mean"] for arm, numbers in results["summary"].items()}
    columns = min(PER_ROW, len(maps))
    rows = -(-len(maps) // columns)
    heights = [2.7 * rows + 0.4, measurements_size(results["measurements"])[1] + 0.4]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    top.suptitle(
        f"Missed by so many pixels, by where the square stands ({options['split']} split, means of "
        f"{len(options['seeds'])} seeds{'; dashed: held out' if options['split'] == 'quadrant' else ''})",
        fontsize=11,
    )
    panels = top.subplots(rows, columns, squeeze=False).flat
    for axes in panels[len(maps) :]:
        axes.remove()
    low, high = (options["square"] - 1) / 2, options["canvas"] - (options["square"] - 1) / 2
    worst = max(1.0, *(float(values.max()) for values in maps.values()))
    for axes, (arm, values) in zip(panels, maps.items(), strict=False):
        image = axes.imshow(
            values, norm="log", cmap="magma", extent=(low, high, high, low), vmin=0.1, vmax=worst
        )
        if options["split"] == "quadrant":
            start = options["canvas"] // 2
            axes.add_patch(
                Rectangle((start, start), high - start, high - start, fill=False, color="w", ls="--")
            )
        axes.set_title(f"{arm}\n{parameters[arm]:,.0f} parameters", fontsize=10)
        axes.set(xticks=[], yticks=[])
    top.colorbar(image, ax=list(panels[: len(maps)]), shrink=0.8, label="pixels")
    shown = [name for name in results["measurements"] if name != "parameters"]
    draw_measurements(bottom, results, shown)
    return figure
