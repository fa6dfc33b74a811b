"""One picture of a toy task: where each network errs, how it learned, what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rl_coordconv.tasks.experiment import array_from_json
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr
from rl_coordconv.tasks.toy.tasks import TASKS, Task

# Arrays of a run that the figure shows; of other seeds than the first only the learning curve.
SHOWN = ("history", "train_errors", "test_errors", "examples", "predictions")
NAMES = {
    "coordconv": "CoordConv",
    "coordconv-blind": "the same without coordinates",
    "conv": "plain convolutions",
    "conv-coords": "the same with coordinates",
}


def toy_figure(results: dict[str, Any]) -> Figure:
    """
    Draw one task on one split: a row per network, its first seed in the maps, all seeds in the curves.

    :param results: A ``results.json``
    """
    options = results["options"]
    data = NotSoClevr(options["canvas"], options["square"])
    task, seed = TASKS[options["task"]](data), options["seeds"][0]
    splits = data.split(options["split"], seed)
    runs = {arm: [_tensors(kept) for kept in kept.values()] for arm, kept in results["samples"].items()}
    parts = [(name, f"{name}_errors") for name in ("train", "test")]
    worst = max(float(members[0][key].max()) for members in runs.values() for _, key in parts)
    figure = Figure(figsize=(16, 3.6 * len(runs) + 0.6), layout="constrained")
    grid = figure.add_gridspec(len(runs), 6, width_ratios=(1.2, 1.2, 1.8, 0.8, 0.8, 0.8))
    longest = max(float(run["history"][:, 1].max()) for members in runs.values() for run in members)
    for row, (arm, members) in enumerate(runs.items()):
        first = members[0]
        maps = [figure.add_subplot(grid[row, column]) for column in range(2)]
        for axes, (name, key), centres in zip(maps, parts, splits, strict=True):
            plot_errors(figure, axes, centres, first[key], max(worst, 1e-3), task, colorbar=name == "test")
            axes.set_title(f"{name}, seed {seed}")
        parameters = results["runs"][arm][str(seed)]["parameters"]
        maps[0].set_ylabel(f"{NAMES[arm]}\n{parameters:,} parameters", fontsize=11)
        learning = figure.add_subplot(grid[row, 2])
        plot_learning(learning, [run["history"] for run in members], task)
        learning.set_xlim(0, 1.03 * longest)  # in all rows, so that a network that was quick looks quick
        for column in range(3):
            axes = figure.add_subplot(grid[row, 3 + column])
            plot_example(axes, task, first["examples"][column].long(), first["predictions"][column])
    title = f"{task.name}, {options['split']} split, {data.canvas} x {data.canvas} pixels"
    figure.suptitle(f"{title} (right: the truth above, the prediction below, on test samples)")
    return figure


def _tensors(kept: dict[str, Any]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(array_from_json(entry)).float() for key, entry in kept.items()}


def plot_errors(
    figure: Figure, axes: Axes, centres: Tensor, errors: Tensor, worst: float, task: Task, colorbar: bool
) -> None:
    """Draw every sample at its centre, coloured by its error."""
    canvas = task.data.canvas
    x, y = centres.T.numpy()
    values = np.full((canvas, canvas), np.nan)
    values[y, x] = errors.numpy()
    image = axes.imshow(values, vmin=0, vmax=worst)
    if colorbar:
        figure.colorbar(image, ax=axes, label=task.error_name, shrink=0.85)


def plot_learning(axes: Axes, histories: Sequence[Tensor], task: Task) -> None:
    """Draw the scores of both splits over time, a line per seed; histories as training keeps them."""
    for number, history in enumerate(histories):
        _, seconds, *scores = history.T.numpy()
        for color, (name, values) in enumerate(zip(("train", "test"), scores, strict=True)):
            label = name if number == 0 else None
            axes.plot(seconds, values, ".-", color=f"C{color}", ms=4, lw=1, label=label)
    axes.set(xlabel="seconds of training", title=f"{task.score_name} while learning, seeds: {len(histories)}")
    if task.higher_is_better:
        axes.set_ylim(-0.03, 1.03)
    else:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()


def plot_example(axes: Axes, task: Task, centre: Tensor, prediction: Tensor) -> None:
    """Draw a sample above what the network said of it; for regression a cross where it saw the square."""
    truth = task.truth(centre[None])[0].numpy()
    gap = np.full((2, truth.shape[1]), np.nan)
    if prediction.dim() == 2:
        # The brightest pixel is white, for a softmax spread over a few; one spread over all is black.
        shown = (prediction / prediction.max().clamp(min=0.01)).numpy()
    else:
        shown = np.zeros_like(truth)
        x, y = prediction.tolist()
        axes.plot(x, y + len(truth) + len(gap), "+", color="C1", ms=8)
        axes.plot(x, y, "+", color="C1", ms=8)
    axes.imshow(np.concatenate([truth, gap, shown]), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"({', '.join(str(int(value)) for value in centre)})", fontsize=9)
