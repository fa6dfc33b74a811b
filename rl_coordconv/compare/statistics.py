"""
Scores of one game with their intervals, for runs as few as people can afford.

``scripts/coverage.py`` shows what these intervals hold on simulated Atari scores: the interval of a mean
misses more often than it says where scores are skewed, and with three seeds where runs take off or not (72 %
instead of 95 %); those of differences and chances hold (94 to 100 %).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
MOST_SPLITS = 20_000
# From this many runs on, an interval says more than the runs themselves.
INTERVAL_RUNS = 3
# Of each arm, for a verdict on a game: three against three cannot pass the exact Mann-Whitney test.
RANK_RUNS = 4


@dataclass(frozen=True)
class Estimate:
    """
    A value with its 95 % interval.

    :param value: Point estimate
    :param low: Lower end, or None where there are too few runs
    :param high: Upper end, or None
    :param p_value: Of the test that the truth is no difference, or None
    :param is_range: Whether the ends are the lowest and highest run, not an interval
    """

    value: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    is_range: bool = False


def half_width(runs: np.ndarray) -> np.ndarray:
    """
    Return how far the interval of the mean over runs reaches to both sides, by Student's t.

    :param runs: Shape ``(runs, ...)``, two runs or more
    :return: Shape ``(...)``
    """
    return np.asarray(stats.t.ppf((1 + LEVEL) / 2, len(runs) - 1) * stats.sem(runs, axis=0))


def mean_of_runs(scores: np.ndarray) -> Estimate:
    """
    Return the mean over runs with Student's t interval, or with the range of the runs if there are two.

    :param scores: Shape ``(runs,)``
    """
    mean = float(np.mean(scores))
    if len(scores) < 2:
        return Estimate(mean)
    if len(scores) < INTERVAL_RUNS:
        return Estimate(mean, float(scores.min()), float(scores.max()), is_range=True)
    half = float(half_width(scores))
    return Estimate(mean, mean - half, mean + half)


def difference(scores: np.ndarray, baseline: np.ndarray, paired: bool = False) -> Estimate:
    """
    Return the mean difference of two arms on one game, by Welch's test or, where pairing pays, seed by seed.

    :param scores: The arm's, shape ``(runs,)``
    :param baseline: The baseline's, shape ``(runs of the baseline,)``; if paired, in the order of the same
        seeds
    :param paired: See :func:`pairing_pays`; the differences must not be all alike
    :return: Without interval and p-value below 3 runs of either, or if all runs of both arms are equal
    """
    value = float(scores.mean() - baseline.mean())
    if min(len(scores), len(baseline)) < INTERVAL_RUNS:
        return Estimate(value)
    if max(np.ptp(scores), np.ptp(baseline)) == 0:
        return Estimate(value)
    welch = {} if paired else {"equal_var": False}
    test = (stats.ttest_rel if paired else stats.ttest_ind)(scores, baseline, **welch)
    ends = test.confidence_interval(LEVEL)
    return Estimate(value, float(ends.low), float(ends.high), float(test.pvalue))


def pairing_pays(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    """
    Return whether subtracting seed by seed narrows the interval of an arm's difference from the baseline.

    Arms of one seed start alike, but most of what is random comes later. Pairing halves the degrees of
    freedom, so it pays only above a correlation of 0.58 at 3 seeds, 0.31 at 5, 0.14 at 10; it is used where
    the lower end of the one-sided 95 % interval of the correlation over all games (Fisher's z) lies above
    that.

    :param pairs: Per game, scores of the arm and of the baseline for the seeds that both have
    """
    centred = [(ours - ours.mean(), theirs - theirs.mean()) for ours, theirs in pairs if len(ours) > 2]
    scaled = [(x / x.std(), y / y.std()) for x, y in centred if x.std() > 0 and y.std() > 0]
    degrees = sum(len(x) - 1 for x, _ in scaled)
    if degrees <= 2:
        return False
    correlation = sum(float(x @ y) for x, y in scaled) / sum(len(x) for x, _ in scaled)
    surest = np.arctanh(np.clip(correlation, -0.999999, 0.999999)) - 1.645 / np.sqrt(degrees - 2)
    n = min(len(x) for x, _ in scaled)
    ratio = stats.t.ppf((1 + LEVEL) / 2, 2 * n - 2) / stats.t.ppf((1 + LEVEL) / 2, n - 1)
    return bool(np.tanh(surest) > 1 - ratio**2)


def mann_whitney(scores: np.ndarray, baseline: np.ndarray) -> float:
    """
    Return the p-value of the exact Mann-Whitney test, two-sided.

    Where scores tie it enumerates all ways to share them out, or is asymptotic if these are more than 20,000
    (9 runs of each arm).
    """
    both = np.concatenate([scores, baseline])
    method: Any = "exact"  # which with ties would be wrong, and with "auto" is left from 9 runs on
    if len(np.unique(both)) < len(both):
        few = min(len(scores), len(baseline)) > 1 and math.comb(len(both), len(scores)) <= MOST_SPLITS
        method = stats.PermutationMethod(n_resamples=MOST_SPLITS) if few else "asymptotic"
    return float(stats.mannwhitneyu(scores, baseline, method=method).pvalue)


def improvement_on_game(scores: np.ndarray, baseline: np.ndarray) -> Estimate:
    """
    Return how likely a run of an arm is to beat a run of the baseline on one game, ties counted half.

    The interval is Newcombe's score interval of the Mann-Whitney statistic (2006, Statistics in Medicine 25,
    method 5) with Student's t for the normal quantile; it stays uncertain under complete separation.

    :param scores: Shape ``(runs,)``
    :param baseline: Shape ``(runs of the baseline,)``
    """
    value = float(beaten(scores, baseline).mean())
    ours, theirs = len(scores), len(baseline)
    if min(ours, theirs) < INTERVAL_RUNS:
        return Estimate(value)
    quantile = stats.t.ppf((1 + LEVEL) / 2, ours + theirs - 2)
    theta = np.linspace(0, 1, 2001)
    inside = (value - theta) ** 2 <= quantile**2 * newcombe_variance(theta, ours, theirs)
    return Estimate(value, float(theta[inside][0]), float(theta[inside][-1]))


def beaten(scores: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return 1 where a run of the arm beats one of the baseline, 0.5 where they tie, else 0."""
    ours, theirs = scores[:, None], baseline[None, :]
    return (ours > theirs) + 0.5 * (ours == theirs)


def newcombe_variance(theta: np.ndarray, ours: int, theirs: int) -> np.ndarray:
    """
    Return the variance of the Mann-Whitney statistic after Newcombe (2006, method 5).

    :param theta: What the statistic is in truth
    :param ours: Runs of the arm
    :param theirs: Runs of the baseline
    :return: Shape of ``theta``
    """
    more = (ours + theirs) / 2 - 1
    inner = 1 + more * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return np.asarray(theta * (1 - theta) / (ours * theirs) * inner)
