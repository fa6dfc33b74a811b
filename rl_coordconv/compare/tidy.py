"""
A comparison as tidy tables for other programs, written beside every report.

On disk, under ``runs/<name>/``::

    scores.csv    comparison,game,arm,seed,step,n_games,score_eval_mean,score_train_mean,state
    curves.csv    comparison,game,arm,seed,step,return_mean

``n_games`` are those of the final evaluation. A value that is not there is empty. Curves of a game share one
grid, which ends with its longest run; ``score_train_mean`` is of the last tenth of the run's own steps.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rl_coordconv.compare.analysis import Analysis
from rl_coordconv.compare.collect import RunData, curve_on_grid, step_grid
from rl_coordconv.runs.folder import atomic_path

RUN = ("comparison", "game", "arm", "seed")
SCORES = (*RUN, "step", "n_games", "score_eval_mean", "score_train_mean", "state")
CURVES = (*RUN, "step", "return_mean")


def write_csv(analysis: Analysis) -> None:
    """
    Write ``scores.csv`` and ``curves.csv`` of every run that has begun.

    :param analysis: From ``analyse``
    """
    folder = analysis.comparison.folder
    longest = {game: max((run.last_step for run in runs), default=0) for game, runs in _by_game(analysis)}
    _write(folder / "scores.csv", SCORES, (_score(folder.name, run) for run in analysis.runs))
    rows = (row for run in analysis.runs for row in _curve(folder.name, run, longest[run.game]))
    _write(folder / "curves.csv", CURVES, rows)


def _by_game(analysis: Analysis) -> Iterable[tuple[str, list[RunData]]]:
    for game in analysis.comparison.games:
        yield game, [run for run in analysis.runs if run.game == game]


def _score(name: str, run: RunData) -> Sequence[object]:
    n_games, evaluated = ("", "") if run.evaluation is None else (len(run.evaluation), run.evaluation.mean())
    last = curve_on_grid(run, np.array([run.last_step])) if len(run.steps) else np.array([np.nan])
    trained = last[0] if np.isfinite(last[0]) else ""
    where = (name, run.game, run.arm, run.seed)
    return (*where, run.last_step, n_games, evaluated, trained, run.progress.state)


def _curve(name: str, run: RunData, end: int) -> Iterable[Sequence[object]]:
    if not len(run.steps):
        return
    grid = step_grid(end)
    for step, value in zip(grid, curve_on_grid(run, grid), strict=True):
        if step <= run.last_step and np.isfinite(value):
            yield name, run.game, run.arm, run.seed, round(step), value


def _write(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
