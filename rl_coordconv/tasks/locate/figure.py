"""Where each arm errs, as a map, and its measurements."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rl_coordconv.tasks.experiment import array_from_json
from rl_coordconv.tasks.figures import draw_measurements, measurements_size

PER_ROW = 5


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
    rows = -(-len(maps) // PER_ROW)
    columns = -(-len(maps) // rows)
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
