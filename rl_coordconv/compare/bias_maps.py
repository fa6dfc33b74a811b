"""What coordinates add to each arm's features, as the runs' TensorBoard files show it: one panel per arm."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from rl_coordconv.compare.analysis import Analysis
from rl_coordconv.compare.read import events_of

SUFFIX = "/positional_bias"


def newest_maps(run: Path) -> tuple[str, np.ndarray] | None:
    """
    Return the newest picture of a run's positional biases.

    :param run: Folder with ``events.out.tfevents.*``
    :return: Name of the first layer that sees coordinates, and its picture ``(height, width, 3) uint8``
    """
    events = events_of(run)
    tags = [tag for tag in events.Tags()["images"] if tag.endswith(SUFFIX)]
    if not tags:
        return None
    data = events.Images(tags[0])[-1].encoded_image_string
    layer = tags[0].removeprefix("coordconv/").removesuffix(SUFFIX)
    return layer, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def bias_maps_figure(analysis: Analysis) -> Figure | None:
    """
    Draw, per arm, the maps that its filters add, of the first run that has them; None where none has.

    :param analysis: From ``analyse``
    """
    panels: dict[str, np.ndarray] = {}
    for arm in analysis.comparison.arms:
        for run in (run for run in analysis.runs if run.arm == arm and run.coord_use):
            if run.folder and (maps := newest_maps(run.folder)):
                panels[f"{arm}: {maps[0]} ({run.game}, seed {run.seed})"] = maps[1]
                break
    if not panels:
        return None
    figure = Figure(figsize=(4 * len(panels), 4.3), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, picture) in zip(axes, panels.items(), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    return figure
