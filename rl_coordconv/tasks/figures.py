"""What the figures of all tasks share: measurements with intervals, and how a figure is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rl_coordconv.files import atomic_path
from rl_coordconv.tasks.seed_statistics import shown_interval

PER_ROW = 5
MANY_ARMS = 5


def _grid(measurements: Sequence[str]) -> tuple[int, int]:
    """Return how many rows of how many panels measurements take."""
    return -(-len(measurements) // PER_ROW), min(PER_ROW, len(measurements))


def measurements_size(measurements: Sequence[str]) -> tuple[float, float]:
    """Return the inches, across and down, that :func:`draw_measurements` needs."""
    rows, columns = _grid(measurements)
    return 2.2 * columns, 2.8 * rows


def draw_measurements(figure: Any, results: dict[str, Any], measurements: Sequence[str]) -> None:
    """Draw a panel per measurement: a dot per seed, the mean and its 95 % interval; the data's own dashed."""
    arms = list(results["runs"])
    panels = figure.subplots(*_grid(measurements), squeeze=False).flat
    for axes in panels[len(measurements) :]:
        axes.remove()
    for axes, key in zip(panels, measurements, strict=False):
        for number, arm in enumerate(arms):
            values = [run[key] for run in results["runs"][arm].values() if run[key] is not None]
            axes.plot([number] * len(values), values, ".", color=f"C{number}", alpha=0.5)
            entry = results["summary"][arm][key]
            if entry["mean"] is not None:
                low, high = shown_interval(entry, values) or [entry["mean"]] * 2
                axes.errorbar(
                    number + 0.15, entry["mean"], [[entry["mean"] - low], [high - entry["mean"]]], fmt="o",
                    color=f"C{number}", capsize=3,
                )  # fmt: skip
        if results.get("data", {}).get(key) is not None:
            axes.axhline(results["data"][key], ls="--", lw=0.8, color="gray")
        axes.set_title(key.replace("_", " "), fontsize=9)
        # Many names fit beside each other upright only.
        axes.set_xticks(range(len(arms)), arms, fontsize=7, rotation=20 if len(arms) < MANY_ARMS else 90)
        axes.set_xlim(-0.5, len(arms) - 0.3)
        axes.tick_params(axis="y", labelsize=7)
        axes.grid(alpha=0.3, axis="y")


def save(figure: Figure, folder: Path, name: str = "figure.png") -> None:
    """Write a figure into a folder, an experiment's ``figure.png`` by default."""
    with atomic_path(folder / name) as temporary:
        figure.savefig(temporary, dpi=110)
