"""The learning curve of a run as table and picture, from its ``monitor.csv``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from rl_coordconv.runs.folder import RunFolder


def write_curve(run: RunFolder, path: Path, title: str, points: int = 100) -> bool:
    """
    Write a run's learning curve as ``.csv`` and ``.png``; nothing if no game has ended.

    :param run: The run
    :param path: Without ending
    :param title: Title of the picture
    :param points: Stretches of equal length that training is divided into; those in which no game ended are
        left out
    :return: Whether there is a curve
    """
    steps, returns = run.read_games()
    if not len(steps):
        return False
    edges = np.linspace(0, steps.max(), points + 1)
    stretch = np.clip(np.searchsorted(edges, steps) - 1, 0, points - 1)
    rows = [
        (round(edges[index + 1]), int((stretch == index).sum()), returns[stretch == index].mean())
        for index in np.unique(stretch)
    ]
    lines = ["step,games,mean_return", *(f"{step},{games},{mean:.2f}" for step, games, mean in rows)]
    path.with_suffix(".csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([row[0] for row in rows], [row[2] for row in rows])
    axes.set(xlabel="steps (4 frames each)", ylabel="mean raw return", title=title)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    figure.savefig(path.with_suffix(".png"), dpi=100)
    return True
