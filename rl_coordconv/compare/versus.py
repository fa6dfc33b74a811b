"""An arm against the baseline on one game, with a verdict in plain words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_coordconv.compare import statistics
from rl_coordconv.compare.statistics import Estimate


@dataclass(frozen=True)
class ArmOnGame:
    """
    An arm's runs on one game.

    :param scores: Final raw return by seed
    :param final: Their mean
    :param curve: Mean, lower and upper end of the band on the grid, shape ``(3, GRID_POINTS)``
    :param foreign: Trained elsewhere
    """

    scores: dict[int, float]
    final: Estimate
    curve: np.ndarray
    foreign: bool


@dataclass(frozen=True)
class Versus:
    """
    An arm against the baseline on one game.

    :param difference: Of the mean final raw returns
    :param improvement: Probability that a run of the arm beats one of the baseline
    :param outcome: ``better``, ``worse`` or ``not distinguishable``
    :param reason: Why, in plain words
    """

    difference: Estimate
    improvement: Estimate
    outcome: str
    reason: str


def compare_on_game(ours: ArmOnGame, baseline: ArmOnGame) -> Versus | None:
    """
    Return an arm against the baseline on one game, or None without a pair of runs.

    :param ours: The arm
    :param baseline: The baseline
    """
    paired = not (ours.foreign or baseline.foreign)
    found = statistics.difference(ours.scores, baseline.scores, paired)
    if found is None:
        return None
    shared = [seed for seed in ours.scores if seed in baseline.scores] if paired else None
    mine, theirs = (np.array([arm.scores[seed] for seed in shared or arm.scores]) for arm in (ours, baseline))
    improvement = statistics.improvement_on_game(mine, theirs)
    n = min(len(mine), len(theirs))
    seeds = f"{n} {'paired ' if paired else ''}seeds"
    outcome, reason = _verdict(found, seeds)
    if outcome == "not distinguishable" and n >= 2:
        spread = np.std(mine - theirs, ddof=1) if paired else np.hypot(mine.std(ddof=1), theirs.std(ddof=1))
        reason += f"; {_more_seeds(found.value, float(spread), n)}"
    return Versus(found, improvement, outcome, reason)


def _verdict(found: Estimate, seeds: str) -> tuple[str, str]:
    if found.low is None or found.high is None:
        return "not distinguishable", f"{found.value:+,.1f}, without an interval: fewer than two seeds"
    reason = f"{found.value:+,.1f} [{found.low:+,.1f}, {found.high:+,.1f}] raw points, {seeds}"
    if found.low > 0:
        return "better", reason
    if found.high < 0:
        return "worse", reason
    return "not distinguishable", reason


def _more_seeds(mean: float, spread: float, n: int) -> str:
    """Say how many more seeds would show a difference of the size that was seen."""
    if mean == 0:
        return "the means are equal, so no number of seeds can be named"
    needed = statistics.seeds_needed(mean / spread) if spread else n
    if needed is None:
        return f"a difference this small would need over {statistics.MOST_SEEDS:,} seeds per arm"
    # The interval includes 0 already, so the estimate must ask for at least one more.
    more = max(needed - n, 1)
    return f"if the difference is as large as it looks, about {more} more seeds per arm would show it"
