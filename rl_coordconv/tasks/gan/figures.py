"""The GAN's figure: samples, latent walks, the mean image, where the objects stand, and measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from rl_coordconv.files import atomic_path
from rl_coordconv.tasks.experiment import Experiment
from rl_coordconv.tasks.figures import draw_measurements, measurements_size, save
from rl_coordconv.tasks.gan.coverage import histogram
from rl_coordconv.tasks.gan.sort_of_clevr import COLOURS

MAPS = ("Reds", "Blues")
SHOWN_WALKS = 4


def draw_gan(experiment: Experiment, results: dict[str, Any]) -> None:
    """
    Draw samples, latent walks, the mean image and where the objects stand, for the data and each arm;
    measurements below. Beside it stands ``walk_<arm>.gif``, a film of the walks side by side.

    :param experiment: With finished runs
    :param results: Its ``results.json``
    """
    arms = experiment.arms
    rows = len(arms) + 1
    heights = [1.9 * rows, measurements_size(experiment.measurements)[1]]
    figure = Figure(figsize=(12, sum(heights)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = top.subplots(rows, 5, width_ratios=[1.6, 2.2, 1, 1, 1])
    for row, name in zip(axes, ("data", *arms), strict=True):
        loaded = [experiment.samples(arms[0] if name == "data" else name, seed) for seed in experiment.seeds]
        prefix = "data_" if name == "data" else ""
        show_sheet(row[0], loaded[0][prefix + "images"][:24], 6)
        if name == "data":
            row[1].axis("off")
        else:
            walks = np.stack(np.split(loaded[0]["walk"], SHOWN_WALKS))
            shown = np.linspace(0, walks.shape[1] - 1, 10).round().astype(int)
            show_sheet(row[1], np.concatenate(walks[:, shown]), 10)
            save_film(walks, experiment.folder / f"walk_{name}.gif")
        show_sheet(row[2], loaded[0][prefix + "mean_image"], 1)
        centres = np.concatenate([samples[prefix + "centres"] for samples in loaded])
        size = results["options"]["image_size"]
        for column, (colour, palette) in enumerate(zip(COLOURS, MAPS, strict=True)):
            show_places(row[3 + column], centres[:, column], size, palette)
            row[3 + column].set_title(f"{colour} centres" if name == "data" else "", fontsize=9)
        row[0].set_title(f"{name}: samples", fontsize=9)
        row[2].set_title("mean image" if name == "data" else "", fontsize=9)
        row[1].set_title("" if name == "data" else f"{name}: latent walks", fontsize=9)
    draw_measurements(bottom, results, experiment.measurements)
    save(figure, experiment.folder)


def show_sheet(axes: Axes, images: np.ndarray, columns: int) -> None:
    """Show ``(images, height, width, channels) uint8`` side by side with thin gaps."""
    gap = ((0, 0), (1, 1), (1, 1), (0, 0))
    framed = np.pad(images, gap, constant_values=160)
    sheet = framed.reshape(-1, columns, *framed.shape[1:]).transpose(0, 2, 1, 3, 4)
    axes.imshow(sheet.reshape(sheet.shape[0] * sheet.shape[1], -1, images.shape[-1]))
    axes.axis("off")


def save_film(walks: np.ndarray, path: Path) -> None:
    """Write ``(walks, steps, height, width, channels) uint8`` side by side, as a film that repeats."""
    frames = map(Image.fromarray, np.concatenate([*walks], axis=2))
    pictures = [ImageOps.scale(frame, 3, Image.Resampling.NEAREST) for frame in frames]
    with atomic_path(path) as temporary:
        pictures[0].save(
            temporary, "GIF", save_all=True, append_images=pictures[1:], duration=100, loop=0, optimize=True
        )


def show_places(axes: Axes, centres: np.ndarray, size: int, palette: str) -> None:
    """Show how often objects stand in each cell; ``centres`` is ``(images, 2)``, NaN without an object."""
    counts = histogram(centres[~np.isnan(centres[:, 0])], size)
    shares = counts / max(counts.sum(), 1)
    axes.imshow(shares, cmap=palette, vmin=0, vmax=3 / counts.size)
    axes.set(xticks=[], yticks=[])
