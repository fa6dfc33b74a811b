"""One figure per task: what the networks make, and their measurements with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rl_coordconv.runs.folder import atomic_path
from rl_coordconv.tasks.experiment import load_samples
from rl_coordconv.tasks.gan.coverage import histogram
from rl_coordconv.tasks.gan.sort_of_clevr import COLOURS

MAPS = ("Reds", "Blues")


def draw_gan(results: dict[str, Any], folder: Path, arms: Sequence[str], measurements: Sequence[str]) -> None:
    """
    Draw samples, latent walks and where the objects stand, for the data and each arm; measurements below.

    :param results: Of the experiment
    :param folder: Of the experiment, whose ``<name>.png`` is written
    :param arms: Rows
    :param measurements: Panels
    """
    rows = len(arms) + 1
    figure = plt.figure(figsize=(12, 1.9 * rows + 2.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.9 * rows, 2.6], squeeze=False)[:, 0]
    axes = top.subplots(rows, 4, width_ratios=[1.6, 2.2, 1, 1])
    seeds = range(1, results["options"]["seeds"] + 1)
    for row, name in zip(axes, ("data", *arms), strict=True):
        loaded = [load_samples(folder, arms[0] if name == "data" else name, seed) for seed in seeds]
        prefix = "data_" if name == "data" else ""
        show_sheet(row[0], loaded[0][prefix + "images"][:24], 6)
        if name == "data":
            row[1].axis("off")
        else:
            show_sheet(row[1], loaded[0]["walk"], 10)
        centres = np.concatenate([samples[prefix + "centres"] for samples in loaded])
        size = results["options"]["image_size"]
        for column, (colour, palette) in enumerate(zip(COLOURS, MAPS, strict=True)):
            show_places(row[2 + column], centres[:, column], size, palette)
            row[2 + column].set_title(f"{colour} centres" if name == "data" else "", fontsize=9)
        row[0].set_title(f"{name}: samples", fontsize=9)
        row[1].set_title("" if name == "data" else f"{name}: latent walks", fontsize=9)
    draw_measurements(bottom, results, arms, measurements)
    save(figure, folder)


def show_sheet(axes: Axes, images: np.ndarray, columns: int) -> None:
    """Show ``(images, height, width, channels) uint8`` side by side with thin gaps."""
    gap = ((0, 0), (1, 1), (1, 1), (0, 0))
    framed = np.pad(images, gap, constant_values=160)
    sheet = framed.reshape(-1, columns, *framed.shape[1:]).transpose(0, 2, 1, 3, 4)
    axes.imshow(sheet.reshape(sheet.shape[0] * sheet.shape[1], -1, images.shape[-1]))
    axes.axis("off")


def show_places(axes: Axes, centres: np.ndarray, size: int, palette: str) -> None:
    """Show how often objects stand in each cell; ``centres`` is ``(images, 2)``, NaN without an object."""
    counts = histogram(centres[~np.isnan(centres[:, 0])], size)
    shares = counts / max(counts.sum(), 1)
    axes.imshow(shares, cmap=palette, vmin=0, vmax=3 / counts.size)
    axes.set(xticks=[], yticks=[])


def draw_detection(
    results: dict[str, Any], folder: Path, arms: Sequence[str], measurements: Sequence[str]
) -> None:
    """
    Draw test canvases with the boxes of each arm; measurements below.

    :param results: Of the experiment
    :param folder: Of the experiment, whose ``<name>.png`` is written
    :param arms: Rows
    :param measurements: Panels
    """
    shown = min(6, results["options"]["test_canvases"])
    figure = plt.figure(figsize=(12, 2.1 * len(arms) + 2.8), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[2.1 * len(arms), 2.8], squeeze=False)[:, 0]
    top.suptitle("seed 1, test canvases: found boxes, and the digits' own (dotted)", fontsize=9)
    axes = top.subplots(len(arms), shown, squeeze=False)
    for number, (row, arm) in enumerate(zip(axes, arms, strict=True)):
        samples = load_samples(folder, arm)
        for index, cell in enumerate(row):
            show_canvas(cell, {key: array[index] for key, array in samples.items()}, f"C{number}")
        row[0].set_title(arm, fontsize=9, loc="left")
    draw_measurements(bottom, results, arms, measurements)
    save(figure, folder)


def show_canvas(axes: Axes, canvas: dict[str, np.ndarray], colour: str) -> None:
    """Show one canvas with the detections that score 0.5 or more."""
    size = canvas["images"].shape[-1]
    axes.imshow(canvas["images"], cmap="gray", extent=(0, size, size, 0), vmin=0, vmax=255)
    for box in canvas["truth"]:
        axes.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, color="white", ls=":", lw=0.8))
    for box, score, label in zip(canvas["boxes"], canvas["scores"], canvas["labels"], strict=True):
        if score >= 0.5:
            axes.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, color=colour, lw=1.5))
            axes.text(box[0] + 0.5, box[1] + 0.5, str(label), color=colour, fontsize=7, va="top")
    axes.set(xticks=[], yticks=[], xlim=(0, size), ylim=(size, 0))


def draw_measurements(
    figure: Any, results: dict[str, Any], arms: Sequence[str], measurements: Sequence[str]
) -> None:
    """Draw a panel per measurement: a dot per seed, the mean and its 95 % interval; the data's own dashed."""
    panels = figure.subplots(1, len(measurements), squeeze=False)[0]
    for axes, key in zip(panels, measurements, strict=True):
        for number, arm in enumerate(arms):
            values = [run[key] for run in results["runs"][arm].values() if run[key] is not None]
            axes.plot([number] * len(values), values, ".", color=f"C{number}", alpha=0.5)
            entry = results["summary"][arm][key]
            if entry["mean"] is not None:
                low, high = entry["interval"] or [entry["mean"]] * 2
                axes.errorbar(
                    number + 0.15, entry["mean"], [[entry["mean"] - low], [high - entry["mean"]]], fmt="o",
                    color=f"C{number}", capsize=3,
                )  # fmt: skip
        if results.get("data", {}).get(key) is not None:
            axes.axhline(results["data"][key], ls="--", lw=0.8, color="gray")
        axes.set_title(key.replace("_", " "), fontsize=9)
        axes.set_xticks(range(len(arms)), arms, fontsize=7, rotation=20)
        axes.set_xlim(-0.5, len(arms) - 0.3)
        axes.tick_params(axis="y", labelsize=7)
        axes.grid(alpha=0.3, axis="y")


def save(figure: Figure, folder: Path) -> None:
    """Write ``<folder>/<name>.png``."""
    with atomic_path(folder / f"{folder.name}.png") as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
