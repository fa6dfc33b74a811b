"""
The pictures of a comparison's report, under ``runs/<name>/figures/``: PNG, and SVG or PDF for papers.

Many games make several pages of one figure: ``learning_curves.png``, ``learning_curves_2.png``, ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.scale import SymmetricalLogTransform
from matplotlib.ticker import EngFormatter

from rl_coordconv.compare.aggregation import performance_profile
from rl_coordconv.compare.analysis import Analysis
from rl_coordconv.compare.bias_maps import bias_maps_figure
from rl_coordconv.compare.games import GameResult
from rl_coordconv.compare.statistics import Estimate
from rl_coordconv.compare.tables import algorithms, arm_speeds
from rl_coordconv.files import atomic_folder
from rl_coordconv.runs.published import RL_ZOO

COLUMNS = 3
DPI = 120
GAMES_PER_PAGE = 12
STEPS = "steps (4 frames each)"
MOST_TICKS = 11


def draw_all(analysis: Analysis, folder: Path, extra_format: str | None = None) -> dict[str, list[Path]]:
    """
    Draw every figure that there is data for.

    :param analysis: From ``analyse``
    :param folder: Where the files go, in the place of an earlier report's
    :param extra_format: ``svg`` or ``pdf``, beside PNG
    :return: PNG files by title, a page each
    """
    paths: dict[str, list[Path]] = {}
    with atomic_folder(folder, "figures", replace=True) as draft:
        for title, figure in _figures(analysis):
            pages = paths.setdefault(title, [])
            stem = title.lower().replace(" ", "_").replace("-", "_") + (f"_{len(pages) + 1}" if pages else "")
            for kind in ["png", *([extra_format] if extra_format else [])]:
                figure.savefig(draft / f"{stem}.{kind}", dpi=DPI)
            pages.append(folder / f"{stem}.png")
    return paths


def _figures(analysis: Analysis) -> Iterator[tuple[str, Figure]]:
    """Yield every figure with its title, one after the other, as 57 games make many."""
    pages = [
        analysis.games[start : start + GAMES_PER_PAGE]
        for start in range(0, len(analysis.games), GAMES_PER_PAGE)
    ]
    for page in pages:
        yield "Learning curves", learning_curves(analysis, page)
    for page in pages if any(arm_speeds(analysis).values()) else []:
        yield "Learning curves over time", learning_curves(analysis, page, over_time=True)
    if any(analysis.versus.values()):
        yield "Probability of improvement", improvement(analysis)
    if analysis.overall:
        yield "Human-normalised scores", aggregates(analysis)
        yield "Human-normalised IQM over steps", iqm_over_steps(analysis)
        yield "Performance profile", profile(analysis)
    for page in pages:
        if any(run.coord_use and run.game == result.game for run in analysis.runs for result in page):
            yield "Use of coordinates", coordinate_use(analysis, page)
    if maps := bias_maps_figure(analysis):
        yield "What coordinates add", maps


def _panels(titles: Sequence[str], columns: int = COLUMNS) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel per title, at most ``columns`` in a row."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(max(5.0, 4.2 * columns), 3.2 * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(titles) :]:
        axes.remove()
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title)
        axes.grid(alpha=0.3)
    return figure, panels[: len(titles)]


def _colours(analysis: Analysis) -> dict[str, str]:
    return {arm: f"C{number % 10}" for number, arm in enumerate(analysis.comparison.arms)}


def legend_below(figure: Figure, panels: Sequence[Axes]) -> None:
    """Name every line of any panel once, below the figure."""
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    # About 0.1 inch a letter and half an inch for the line, or the legend is cut off.
    widest = 0.5 + 0.1 * max(map(len, handles), default=0)
    columns = max(1, min(4, int(figure.get_figwidth() / widest)))
    figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=columns)


def learning_curves(analysis: Analysis, games: Sequence[GameResult], over_time: bool = False) -> Figure:
    """
    Draw, per game, each arm's mean curve with its band, and the single runs thin behind it.

    :param analysis: From ``analyse``
    :param games: Those of this page
    :param over_time: Over hours at each arm's median speed, instead of steps; arms of unknown speed are left
        out
    """
    colours, speeds = _colours(analysis), arm_speeds(analysis)
    figure, panels = _panels([result.game for result in games])
    for axes, result in zip(panels, games, strict=True):
        for arm, ours in result.arms.items():
            if over_time and not speeds[arm]:
                continue
            along = result.grid / (3600 * speeds[arm]) if over_time else result.grid
            axes.plot(along, ours.singles.T, color=colours[arm], lw=0.5, alpha=0.4)
            _band(axes, along, ours.curve, colours[arm], arm)
        means = np.concatenate([ours.curve.ravel() for ours in result.arms.values()])
        _limit(axes, [ours.curve[0] for ours in result.arms.values()], means)
        _published(axes, analysis, result.game)
        axes.set(xlabel="hours" if over_time else STEPS, ylabel="raw return")
        axes.locator_params(axis="x", nbins=5)  # more labels than that run into each other
        if not over_time:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    legend_below(figure, panels)
    return figure


def _band(axes: Axes, along: np.ndarray, curve: np.ndarray, colour: str, label: str) -> None:
    """Draw a curve over its band: value, lower and upper end, shape ``(3, points)``."""
    middle, low, high = curve
    axes.fill_between(along, low, high, color=colour, alpha=0.18, lw=0)
    axes.plot(along, middle, color=colour, label=label)


def _published(axes: Axes, analysis: Analysis, game: str) -> None:
    """Draw RL Zoo's scores as dashed lines, where they do not lie far off the curves."""
    limits = axes.get_ylim()
    for number, algo in enumerate(algorithms(analysis)):
        if game in RL_ZOO[algo] and limits[0] <= RL_ZOO[algo][game] <= limits[1]:
            label, style = f"RL Zoo {algo}, 10 M steps", ("--", ":")[number % 2]
            axes.axhline(RL_ZOO[algo][game], label=label, color="0.4", ls=style, lw=1)
    axes.set_ylim(limits)


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
        bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
    )


def improvement(analysis: Analysis) -> Figure:
    """Draw, per arm, the probability that one of its runs beats one of the baseline, by game and overall."""
    comparison, colours = analysis.comparison, _colours(analysis)
    arms = [arm for arm in comparison.arms if any(arm in by_arm for by_arm in analysis.versus.values())]
    figure, panels = _panels([f"{arm} > {comparison.baseline}" for arm in arms])
    most = 0
    for axes, arm in zip(panels, arms, strict=True):
        rows = [(game, by_arm[arm].improvement) for game, by_arm in analysis.versus.items() if arm in by_arm]
        if arm in analysis.versus_overall:
            rows.append(("all games", analysis.versus_overall[arm].improvement))
        for number, (_, estimate) in enumerate(rows):
            _interval(axes, -number, estimate, colours[arm])
        axes.axvline(0.5, color="grey", ls="--", lw=1)
        axes.set_yticks([-number for number in range(len(rows))], [name for name, _ in rows])
        axes.set(xlim=(-0.03, 1.03), ylim=(0.6 - len(rows), 0.6), xlabel="probability of improvement")
        most = max(most, len(rows))
    figure.set_figheight(max(2.4, 0.45 * most + 1.2) * (-(-len(arms) // COLUMNS)))
    return figure


def aggregates(analysis: Analysis) -> Figure:
    """Draw IQM, mean, median and optimality gap of every arm with their intervals."""
    names = {"IQM": "higher", "mean": "higher", "median": "higher", "optimality gap": "lower"}
    overall, colours = analysis.overall, _colours(analysis)
    figure, panels = _panels([f"{name} ({better} is better)" for name, better in names.items()], columns=2)
    for axes, name in zip(panels, names, strict=True):
        for number, (arm, ours) in enumerate(overall.items()):
            _interval(axes, -number, ours.aggregates[name], colours[arm])
        axes.set_yticks([-number for number in range(len(overall))], [*overall])
        axes.set(xlabel="human-normalised score", ylim=(0.6 - len(overall), 0.6))
    figure.set_figheight(2 * max(2.2, 0.5 * len(overall) + 1.2))
    return figure


def iqm_over_steps(analysis: Analysis) -> Figure:
    """Draw each arm's human-normalised IQM over the steps with its band."""
    colours = _colours(analysis)
    figure, panels = _panels(["all games"])
    for arm, ours in analysis.overall.items():
        along = 100 * np.arange(1, ours.curve.shape[1] + 1) / ours.curve.shape[1]
        _band(panels[0], along, ours.curve, colours[arm], arm)
    curves = [ours.curve for ours in analysis.overall.values()]
    _limit(panels[0], [curve[0] for curve in curves], np.concatenate([curve.ravel() for curve in curves]))
    panels[0].set(xlabel="% of the steps", ylabel="human-normalised IQM")
    legend_below(figure, panels)
    return figure


def profile(analysis: Analysis) -> Figure:
    """Draw the share of runs above every human-normalised score, beyond 1 on a logarithmic axis."""
    colours, overall = _colours(analysis), analysis.overall
    values = np.concatenate([np.concatenate(ours.scores) for ours in overall.values()])
    scale = SymmetricalLogTransform(10, 1, 1)
    first, last = np.asarray(scale.transform_non_affine(np.array([values.min(), values.max()])), dtype=float)
    room = max(float(last - first), 0.01) * 0.05
    points = np.linspace(first - room, last + room, 101)
    taus = np.asarray(scale.inverted().transform_non_affine(points), dtype=float)
    most = max(len(ours.games) for ours in overall.values())
    figure, panels = _panels([f"{most} games"])
    for arm, ours in overall.items():
        _band(panels[0], taus, performance_profile(ours.scores, taus), colours[arm], arm)
    panels[0].set(xlabel="human-normalised score $\\tau$", ylabel="share of runs above $\\tau$")
    panels[0].set(ylim=(-0.03, 1.03))
    panels[0].set_xscale("symlog", linthresh=1)
    ticks = round_scores(taus[0], taus[-1])
    panels[0].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].set_xlim(taus[0], taus[-1])
    legend_below(figure, panels)
    return figure


def round_scores(first: float, last: float) -> list[float]:
    """Return round scores for an axis that is linear up to 1 on both sides and logarithmic beyond."""
    near = [-0.5, 0, 0.25, 0.5, 0.75]
    for digits in ((1, 2, 5), (1,)):
        beyond = [digit * 10.0**power for power in range(6) for digit in digits]
        ticks = [-tick for tick in reversed(beyond)] + near + beyond
        inside = [tick for tick in ticks if first <= tick <= last]
        if len(inside) <= MOST_TICKS:
            return inside
        near = [0]
    return inside


def coordinate_use(analysis: Analysis, page: Sequence[GameResult]) -> Figure:
    """Draw, per game, the share of each layer's weight norm on coordinates over time, mean of the seeds."""
    used = [run for run in analysis.runs if run.coord_use]
    games = [result.game for result in page if any(run.game == result.game for run in used)]
    lines = list(dict.fromkeys((run.arm, layer) for run in used for layer in run.coord_use))
    colours = _colours(analysis)
    figure, panels = _panels(games)
    for axes, game in zip(panels, games, strict=True):
        for number, (arm, layer) in enumerate(lines):
            ours = [run for run in used if (run.game, run.arm) == (game, arm) and layer in run.coord_use]
            if not ours:
                continue
            grid = min((run.grid for run in ours), key=len)
            mean = np.mean([run.coord_use[layer][: len(grid)] for run in ours], axis=0)
            style = ("-", "--", ":", "-.")[number % 4]
            axes.plot(grid, mean, style, color=colours[arm], label=f"{arm}: {layer}")
        axes.set(xlabel=STEPS, ylabel="share of weight norm")
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    legend_below(figure, panels)
    return figure
