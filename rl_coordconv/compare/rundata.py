"""What a comparison knows of one run: its score, its curve on a grid, where and how it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rl_coordconv.runs.folder import Progress

GRID_POINTS = 50
WINDOW = 0.1
# A run takes part once it has come half as far as the longest one; until then it would cut all others short.
TAKES_PART = 0.5
Curve = tuple[np.ndarray, np.ndarray]


def run_name(game: str, arm: str, seed: int) -> str:
    """Return what a run is called and where it lies, e.g. ``Breakout/coordconv/seed1``."""
    return f"{game}/{arm}/seed{seed}"


def parts_of(name: str) -> tuple[str, str, int]:
    """Return game, arm and seed of what :func:`run_name` gave."""
    game, arm, seed = name.split("/")
    return game, arm, int(seed.removeprefix("seed"))


def is_path(name: str) -> bool:
    """Whether the name of a game or an arm would be a path in the names and folders that hold it."""
    return "/" in name or name.startswith(".")


@dataclass(frozen=True)
class RunData:
    """
    One run. Its curve is the mean raw return of the games of the last tenth of the steps before each point.

    :param comparison: Name of the comparison that it was trained in
    :param game: Game
    :param arm: Arm
    :param seed: Seed; runs trained elsewhere are numbered from 1
    :param progress: Where it stands, how far it came, how fast, how often it was started, why it ended
    :param total_steps: How far it is to come
    :param grid: Steps of the curve's points, shape ``(points,)``, as far as the run came
    :param returns: The curve, shape ``(points,)``; NaN before the first game
    :param train_score: Mean raw return of the training games of its last tenth, or None
    :param eval_score: Mean raw return of its final evaluation, or None before it
    :param eval_games: Full games of that evaluation
    :param coord_use: Share of the weight norm on coordinates at each point, by layer
    :param machine: What it was trained on: device, cpu, torch, precision
    :param foreign: Trained elsewhere, so that equal seeds do not mean equal environments
    :param folder: Where it lives, None where its recorded scores are all that is left
    """

    comparison: str
    game: str
    arm: str
    seed: int
    _: KW_ONLY
    progress: Progress
    total_steps: int
    grid: np.ndarray
    returns: np.ndarray
    train_score: float | None = None
    eval_score: float | None = None
    eval_games: int = 0
    coord_use: Mapping[str, np.ndarray] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    foreign: bool = False
    folder: Path | None = None

    @property
    def name(self) -> str:
        """E.g. ``Breakout/coordconv/seed1``."""
        return run_name(self.game, self.arm, self.seed)

    @property
    def last_step(self) -> int:
        """How far training has come."""
        return self.progress.steps

    @property
    def finished(self) -> bool:
        """Whether it is complete."""
        return self.progress.state == "finished"

    @property
    def ended(self) -> bool:
        """Whether it has ended for good: another attempt at one that diverged would pick a survivor."""
        return self.progress.state in ("finished", "diverged")

    def at(self, grid: np.ndarray) -> np.ndarray:
        """Return the curve at other steps, linear in between; NaN before the first game."""
        there = np.isfinite(self.returns)
        if not there.any():
            return np.full(len(grid), np.nan)
        return np.interp(grid, self.grid[there], self.returns[there], left=np.nan)


def is_copy(run: RunData, other: RunData) -> bool:
    """Whether two runs of one game, arm and seed are the same: one machine gives the same from one seed."""
    if not len(run.returns) or run.returns.shape != other.returns.shape:
        return False
    mine, theirs = (
        np.append(each.returns, np.nan if each.eval_score is None else each.eval_score)
        for each in (run, other)
    )
    # Recorded ones have seven digits.
    return np.allclose(mine, theirs, rtol=1e-6, atol=0, equal_nan=True)


def curve_of(steps: np.ndarray, returns: np.ndarray, last_step: int, total: int) -> dict[str, Any]:
    """
    Return what a run's training games say: ``grid``, ``returns`` and ``train_score`` of :class:`RunData`.

    :param steps: Steps at which full games ended, shape ``(games,)``
    :param returns: Their raw returns, shape ``(games,)``
    :param last_step: How far the run came
    :param total: How far it is to come
    """
    grid = step_grid(total)
    grid = grid[grid <= last_step]
    means = window_means(steps, returns, np.append(grid, last_step), total * WINDOW)
    score = float(means[-1]) if np.isfinite(means[-1]) else None
    return {"grid": grid, "returns": means[:-1], "train_score": score}


def step_grid(end: int) -> np.ndarray:
    """Return the points of a curve, shape ``(GRID_POINTS,)``, from the first step to ``end``."""
    return np.linspace(end / GRID_POINTS, end, GRID_POINTS)


def window_means(steps: np.ndarray, returns: np.ndarray, points: np.ndarray, width: float) -> np.ndarray:
    """
    Return the mean return of the games in the window before each point.

    :param steps: Steps at which games ended, ascending, shape ``(games,)``
    :param returns: Their returns, shape ``(games,)``
    :param points: Steps, shape ``(points,)``
    :param width: Of the window, in steps
    :return: Shape of ``points``; where no game ended in the window, the last one before; NaN before the first
    """
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    ends = np.searchsorted(steps, points, side="right")
    starts = np.searchsorted(steps, points - width, side="right")
    starts = np.minimum(starts, np.maximum(ends - 1, 0))
    with np.errstate(invalid="ignore"):
        return np.where(ends > 0, (sums[ends] - sums[starts]) / (ends - starts), np.nan)


def taking_part(runs: Sequence[RunData]) -> tuple[list[RunData], np.ndarray]:
    """
    Return the runs of one game that can be compared, and the grid on which.

    :param runs: All runs of the game
    :return: Those that are finished, or have come at least half as far as the longest, and have finished a
        game by the end of the shortest of them, and the points of the longest up to that end
    """
    longest = max((run.last_step for run in runs), default=0)
    far = [run for run in runs if longest and (run.finished or run.last_step >= TAKES_PART * longest)]
    end = min((run.last_step for run in far), default=0)
    total = max((run.total_steps for run in far), default=0)
    grid = step_grid(total)[step_grid(total) <= end]
    if not len(grid):
        return [], grid
    return [run for run in far if np.isfinite(run.at(grid)).any()], grid
