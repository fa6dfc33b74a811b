"""The pictures of a comparison's report, as PNG files under ``runs/<name>/figures/``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rl_coordconv.compare.analysis import Analysis, Overall
from rl_coordconv.compare.positions import positional_biases
from rl_coordconv.compare.statistics import Estimate, performance_profile
from rl_coordconv.runs.folder import atomic_path

COLUMNS = 3


def draw_all(analysis: Analysis, folder: Path) -> dict[str, Path]:
    """
    Draw every figure that there is data for.

    :param analysis: From ``analyse``
    :param folder: Where the PNG files go; made if it is not there
    :return: Paths by title
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {}
    if analysis.games:
        figures["Learning curves"] = learning_curves(analysis)
    if any(result.versus for result in analysis.games):
        figures["Probability of improvement"] = improvement(analysis)
    if analysis.overall is not None:
        figures["Human-normalised scores"] = aggregates(analysis.overall)
        figures["Performance profile"] = profile(analysis.overall)
    if any(run.coord_use for run in analysis.runs):
        figures["Use of coordinates"] = coordinate_use(analysis)
    if maps := positional_biases(analysis):
        figures["What coordinates add"] = maps
    paths = {}
    for title, figure in figures.items():
        paths[title] = folder / f"{title.lower().replace(' ', '_').replace('-', '_')}.png"
        with atomic_path(paths[title]) as temporary:
            figure.savefig(temporary, dpi=120)
        plt.close(figure)
    return paths


def _panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel per title, at most three in a row."""
    columns = min(COLUMNS, len(titles))
    rows = -(-len(titles) // columns)
    size = (max(5.0, 4.2 * columns), 3.2 * rows + 0.4)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    panels = list(grid.flat)
    for axes in panels[len(titles) :]:
        axes.remove()
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title)
        axes.grid(alpha=0.3)
    return figure, panels[: len(titles)]


def _colours(analysis: Analysis) -> dict[str, str]:
    return {arm: f"C{number % 10}" for number, arm in enumerate(analysis.comparison.arms)}


def learning_curves(analysis: Analysis) -> Figure:
    """Draw, per game, each arm's mean curve with its band, and the single runs thin behind it."""
    colours = _colours(analysis)
    figure, panels = _panels([result.game for result in analysis.games])
    for axes, result in zip(panels, analysis.games, strict=True):
        for arm, ours in result.arms.items():
            mean, low, high = ours.curve
            axes.fill_between(result.grid, low, high, color=colours[arm], alpha=0.18, lw=0)
            axes.plot(result.grid, mean, color=colours[arm], label=arm)
        means = np.concatenate([ours.curve.ravel() for ours in result.arms.values()])
        _limit(axes, [ours.curve[0] for ours in result.arms.values()], means)
        axes.set(xlabel="steps (4 frames each)", ylabel="raw return")
        axes.locator_params(axis="x", nbins=5)  # more labels than that run into each other
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _limit(axes: Axes, curves: Sequence[np.ndarray], bands: np.ndarray) -> None:
    """Keep a panel's scale to about its curves, so that a band of few seeds does not flatten them."""
    values = np.concatenate(curves)
    if not np.isfinite(values).any():
        return
    bottom, top = np.nanmin(values), np.nanmax(values)
    room = max(top - bottom, 1e-9)
    axes.set_ylim(
        max(np.nanmin(bands), bottom - room) - 0.05 * room, min(np.nanmax(bands), top + room) + 0.05 * room
    )


def _interval(axes: Axes, row: float, estimate: Estimate, colour: str) -> None:
    """Draw one estimate as a dot with its interval, the value written above."""
    if estimate.low is not None and estimate.high is not None:
        axes.plot(
            [estimate.low, estimate.high], [row, row], color=colour, lw=6, alpha=0.35, solid_capstyle="butt"
        )
    axes.plot(estimate.value, row, "o", color=colour)
    axes.annotate(
        f"{estimate.value:.2f}",
        (estimate.value, row),
        (0, 7),
        textcoords="offset points",
        ha="center",
        fontsize=8,
    )


def improvement(analysis: Analysis) -> Figure:
    """Draw, per arm, the probability that one of its runs beats one of the baseline, by game and overall."""
    comparison, colours = analysis.comparison, _colours(analysis)
    arms = [arm for arm in comparison.arms if any(arm in result.versus for result in analysis.games)]
    figure, panels = _panels([f"{arm} > {comparison.baseline}" for arm in arms])
    for axes, arm in zip(panels, arms, strict=True):
        rows = [
            (result.game, result.versus[arm].improvement) for result in analysis.games if arm in result.versus
        ]
        if analysis.overall is not None:
            rows.append(("all games", analysis.overall.improvement[arm]))
        for number, (_, estimate) in enumerate(rows):
            _interval(axes, -number, estimate, colours[arm])
        axes.axvline(0.5, color="grey", ls="--", lw=1)
        axes.set_yticks([-number for number in range(len(rows))], [name for name, _ in rows])
        axes.set(xlim=(-0.03, 1.03), ylim=(0.6 - len(rows), 0.6), xlabel="probability of improvement")
    figure.set_figheight(max(2.4, 0.45 * (len(analysis.games) + 1) + 1.2) * (-(-len(arms) // COLUMNS)))
    return figure


def aggregates(overall: Overall) -> Figure:
    """Draw IQM and optimality gap of every arm with their intervals."""
    names = {"iqm": "IQM (higher is better)", "optimality_gap": "optimality gap (lower is better)"}
    figure, panels = _panels([*names.values()])
    for axes, key in zip(panels, names, strict=True):
        for number, (_, estimates) in enumerate(overall.aggregates.items()):
            _interval(axes, -number, estimates[key], f"C{number % 10}")
        axes.set_yticks([-number for number in range(len(overall.aggregates))], [*overall.aggregates])
        axes.set(xlabel="human-normalised score", ylim=(0.6 - len(overall.aggregates), 0.6))
    figure.set_figheight(max(2.2, 0.5 * len(overall.aggregates) + 1.2))
    return figure


def profile(overall: Overall) -> Figure:
    """Draw the share of runs above every human-normalised score."""
    values = np.concatenate([matrix.ravel() for matrix in overall.matrices.values()])
    room = max(float(np.ptp(values)), 0.01) * 0.05
    taus = np.linspace(values.min() - room, values.max() + room, 101)
    figure, [axes] = _panels([f"{len(overall.games)} games, {len(overall.seeds)} seeds"])
    for number, (arm, matrix) in enumerate(overall.matrices.items()):
        share, low, high = performance_profile(matrix, taus)
        axes.fill_between(taus, low, high, color=f"C{number % 10}", alpha=0.18, lw=0)
        axes.plot(taus, share, color=f"C{number % 10}", label=arm)
    axes.set(
        xlabel="human-normalised score $\\tau$", ylabel="share of runs above $\\tau$", ylim=(-0.03, 1.03)
    )
    axes.legend()
    return figure


def coordinate_use(analysis: Analysis) -> Figure:
    """Draw, per game, the share of each layer's weight norm on coordinates over time, mean of the seeds."""
    used = [run for run in analysis.runs if run.coord_use]
    games = [game for game in analysis.comparison.games if any(run.game == game for run in used)]
    lines = list(dict.fromkeys((run.arm, layer) for run in used for layer in run.coord_use))
    colours = _colours(analysis)
    figure, panels = _panels(games)
    for axes, game in zip(panels, games, strict=True):
        for number, (arm, layer) in enumerate(lines):
            curves = [
                run.coord_use[layer]
                for run in used
                if (run.game, run.arm) == (game, arm) and layer in run.coord_use
            ]
            if not curves:
                continue
            length = min(map(len, curves))
            grid = next(run.grid for run in used if run.game == game)[:length]
            mean = np.mean([curve[:length] for curve in curves], axis=0)
            style = ("-", "--", ":", "-.")[number % 4]
            axes.plot(grid, mean, style, color=colours[arm], label=f"{arm}: {layer}")
        axes.set(xlabel="steps (4 frames each)", ylabel="share of weight norm")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
