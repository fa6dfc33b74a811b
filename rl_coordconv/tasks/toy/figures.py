"""One picture of a toy task: where each network errs, how it learned, what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rl_coordconv.runs.folder import atomic_path
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr
from rl_coordconv.tasks.toy.tasks import Task, make_task
from rl_coordconv.tasks.toy.training import Run

NAMES = {"coordconv": "CoordConv", "conv": "plain convolutions"}


def plot_task(runs: Sequence[Run], path: Path) -> None:
    """
    Draw one task on one split: a row per network, its first seed in the maps, all seeds in the curves.

    :param runs: Of one task and split
    :param path: PNG to write
    """
    archs: dict[str, list[Run]] = {}
    for run in runs:
        archs.setdefault(run.options.arch, []).append(run)
    options = runs[0].options
    data = NotSoClevr(options.canvas, options.square)
    task = make_task(options.task, data)
    worst = max(float(part.max()) for run in runs for part in (run.best.train_errors, run.best.test_errors))
    figure = plt.figure(figsize=(16, 3.6 * len(archs) + 0.6), layout="constrained")
    grid = figure.add_gridspec(len(archs), 6, width_ratios=(1.2, 1.2, 1.8, 0.8, 0.8, 0.8))
    for row, (arch, members) in enumerate(archs.items()):
        first = members[0]
        maps = [figure.add_subplot(grid[row, column]) for column in range(2)]
        splits = data.split(options.split, first.options.seed)
        errors = (first.best.train_errors, first.best.test_errors)
        for axes, name, centres, values in zip(maps, ("train", "test"), splits, errors, strict=True):
            plot_errors(figure, axes, centres, values, max(worst, 1e-3), task, colorbar=name == "test")
            axes.set_title(f"{name}, seed {first.options.seed}")
        maps[0].set_ylabel(f"{NAMES[arch]}\n{members[0].parameters:,} parameters", fontsize=11)
        plot_learning(figure.add_subplot(grid[row, 2]), members, task)
        for column in range(3):
            axes = figure.add_subplot(grid[row, 3 + column])
            plot_example(axes, task, first.examples[column], first.predictions[column])
    title = f"{options.task}, {options.split} split, {options.canvas} x {options.canvas} pixels"
    figure.suptitle(f"{title} (right: the truth above, the prediction below, on test samples)")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)
    plt.close(figure)


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


def plot_learning(axes: Axes, runs: Sequence[Run], task: Task) -> None:
    """Draw the scores of both splits over time, a line per seed."""
    for number, run in enumerate(runs):
        seconds = [evaluation.seconds for evaluation in run.history]
        scores = {
            "train": [evaluation.train_score for evaluation in run.history],
            "test": [evaluation.test_score for evaluation in run.history],
        }
        for color, (name, values) in enumerate(scores.items()):
            label = name if number == 0 else None
            axes.plot(seconds, values, ".-", color=f"C{color}", ms=4, lw=1, label=label)
    axes.set(xlabel="seconds", title=f"{task.score_name} while learning, seeds: {len(runs)}")
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
        # The brightest pixel is white: a softmax spread over many pixels would be black otherwise.
        shown = (prediction / prediction.max()).numpy()
    else:
        shown = np.zeros_like(truth)
        x, y = prediction.tolist()
        axes.plot(x, y + len(truth) + len(gap), "+", color="C1", ms=8)
        axes.plot(x, y, "+", color="C1", ms=8)
    axes.imshow(np.concatenate([truth, gap, shown]), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"({', '.join(str(int(value)) for value in centre)})", fontsize=9)
