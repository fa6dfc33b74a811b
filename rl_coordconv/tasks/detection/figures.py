"""Detection's figure: canvases with the boxes that were found, and measurements with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rl_coordconv.tasks.detection.metrics import SHOWN_SCORE
from rl_coordconv.tasks.detection.proposals import label_text
from rl_coordconv.tasks.experiment import Experiment
from rl_coordconv.tasks.figures import draw_measurements, measurements_size, save


def draw_detection(experiment: Experiment, results: dict[str, Any]) -> None:
    """
    Draw test canvases with the boxes of each arm; measurements below.

    :param experiment: With finished runs
    :param results: Its ``results.json``
    """
    arms, seed = experiment.arms, experiment.seeds[0]
    shown = min(6, results["options"]["test_canvases"])
    heights = [2.1 * len(arms), measurements_size(experiment.measurements)[1]]
    figure = Figure(figsize=(12, sum(heights)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    top.suptitle(f"seed {seed}, test canvases: found boxes, and the digits' own (dotted)", fontsize=9)
    axes = top.subplots(len(arms), shown, squeeze=False)
    for number, (row, arm) in enumerate(zip(axes, arms, strict=True)):
        samples = experiment.samples(arm, seed)
        for index, cell in enumerate(row):
            show_canvas(cell, {key: array[index] for key, array in samples.items()}, f"C{number}")
        row[0].set_title(arm, fontsize=9, loc="left")
    draw_measurements(bottom, results, experiment.measurements)
    save(figure, experiment.folder)


def show_canvas(axes: Axes, canvas: dict[str, np.ndarray], colour: str) -> None:
    """Show one canvas with the detections that score :data:`SHOWN_SCORE` or more."""
    size = canvas["images"].shape[-1]
    axes.imshow(canvas["images"], cmap="gray", extent=(0, size, size, 0), vmin=0, vmax=255)
    for box in canvas["truth"]:
        axes.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, color="white", ls=":", lw=0.8))
    for box, score, label in zip(canvas["boxes"], canvas["scores"], canvas["labels"], strict=True):
        if score >= SHOWN_SCORE:
            axes.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, color=colour, lw=1.5))
            axes.text(box[0] + 0.5, box[1] + 0.5, label_text(label), color=colour, fontsize=7, va="top")
    axes.set(xticks=[], yticks=[], xlim=(0, size), ylim=(size, 0))
