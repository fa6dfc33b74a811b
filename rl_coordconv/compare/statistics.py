"""
Scores with intervals: rliable (Agarwal et al., 2021, arXiv:2108.13264) over games, Student's t within a game.

A score matrix has shape ``(runs, games)``. With the 2 to 5 seeds that people can afford, rliable's percentile
intervals of 95 % hold the truth in 65 to 90 % of cases: n resampled runs vary less than n new runs by a
factor (n-1)/n, and no resample leaves the range of the data. So the *standard error* is taken from rliable's
stratified bootstrap, corrected by that factor, and the interval reaches out by Student's t with
games x (n-1) degrees of freedom. It holds the truth in 92 to 97 % (``tests/compare/test_statistics.py``).

Arms with the same seeds are resampled, and subtracted, seed by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from rliable import library, metrics
from scipy import stats

LEVEL = 0.95
POWER = 0.8
REPS = 2000
# rliable's probability of improvement calls scipy once per game and resample.
SLOW_REPS = 400
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Estimate:
    """
    A value with its 95 % interval.

    :param value: Point estimate
    :param low: Lower end, or None where fewer than two runs allow no interval
    :param high: Upper end, or None
    """

    value: float
    low: float | None = None
    high: float | None = None


def bootstrap(
    matrix: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], reps: int = REPS
) -> np.ndarray:
    """
    Return a statistic with its interval from rliable's stratified bootstrap, always with the same draws.

    :param matrix: Shape ``(runs, games)``, at least two runs
    :param statistic: From a matrix to an array of shape ``(k,)``
    :param reps: Resamples
    :return: Estimate, lower and upper end, shape ``(3, k)``
    """
    # rliable draws from numpy's global state, whatever random_state it is given.
    state = np.random.get_state()
    np.random.seed(0)
    try:
        draws = library.StratifiedBootstrap(matrix).apply(statistic, reps=reps)
    finally:
        np.random.set_state(state)
    n_runs, n_games = matrix.shape
    error = draws.std(axis=0, ddof=1) * np.sqrt(n_runs / (n_runs - 1))
    half = stats.t.ppf((1 + LEVEL) / 2, n_games * (n_runs - 1)) * error
    value = statistic(matrix)
    return np.stack([value, value - half, value + half])


def aggregate(matrix: np.ndarray) -> dict[str, Estimate]:
    """
    Return IQM and optimality gap of human-normalised scores.

    :param matrix: Shape ``(runs, games)``
    """

    def both(scores: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_iqm(scores), metrics.aggregate_optimality_gap(scores)])

    names = ("iqm", "optimality_gap")
    if len(matrix) < 2:
        return {name: Estimate(float(value)) for name, value in zip(names, both(matrix), strict=True)}
    estimates = bootstrap(matrix, both)
    return {name: Estimate(*map(float, column)) for name, column in zip(names, estimates.T, strict=True)}


def performance_profile(matrix: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """
    Return the share of runs above each score, with its interval.

    :param matrix: Human-normalised scores, shape ``(runs, games)``
    :param taus: Scores, shape ``(k,)``
    :return: Share, lower and upper end, shape ``(3, k)``; the ends are NaN with fewer than two runs
    """

    def profile(scores: np.ndarray) -> np.ndarray:
        return np.asarray(library.score_distributions(scores, taus))

    if len(matrix) < 2:
        return np.vstack([profile(matrix), np.full((2, len(taus)), np.nan)])
    return np.clip(bootstrap(matrix, profile), 0, 1)


def improvement_on_game(scores: np.ndarray, baseline: np.ndarray) -> Estimate:
    """
    Return how likely a run of an arm is to beat a run of the baseline on one game.

    With complete separation a bootstrap claims certainty from any number of runs; the interval is the exact
    binomial one of as many pairs of runs, which is conservative because every run meets every other.

    :param scores: Shape ``(runs,)``
    :param baseline: Shape ``(runs of the baseline,)``
    """
    value = float(metrics.probability_of_improvement(scores[:, None], baseline[:, None]))
    n = min(len(scores), len(baseline))
    return Estimate(value, *binomial_interval(value, n)) if n >= 2 else Estimate(value)


def improvement_over_games(scores: np.ndarray, baseline: np.ndarray) -> Estimate:
    """
    Return how likely a run of an arm is to beat a run of the baseline, averaged over games.

    The interval joins rliable's bootstrap, in which both arms draw the same seeds, with the binomial one
    (see :func:`improvement_on_game`).

    :param scores: Shape ``(runs, games)``; row k has the seed of the baseline's row k
    :param baseline: Shape ``(runs, games)``
    """
    n_runs, n_games = scores.shape
    games = np.arange(n_games)

    def improvement(rows: np.ndarray) -> np.ndarray:
        return np.array([metrics.probability_of_improvement(scores[rows, games], baseline[rows, games])])

    rows = np.tile(np.arange(n_runs)[:, None], (1, n_games))
    if n_runs < 2:
        return Estimate(float(improvement(rows)[0]))
    value, low, high = map(float, bootstrap(rows, improvement, SLOW_REPS)[:, 0])
    exact_low, exact_high = binomial_interval(value, n_runs * n_games)
    return Estimate(value, max(min(low, exact_low), 0.0), min(max(high, exact_high), 1.0))


def binomial_interval(share: float, n: int) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share of ``n``."""
    tail, hits = (1 - LEVEL) / 2, share * n
    low = stats.beta.ppf(tail, hits, n - hits + 1) if hits > 0 else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
    return float(low), float(high)


def half_width(runs: np.ndarray) -> np.ndarray:
    """
    Return how far the interval of the mean over runs reaches to both sides, by Student's t.

    :param runs: Shape ``(runs, ...)``, two runs or more
    :return: Shape ``(...)``
    """
    return np.asarray(stats.t.ppf((1 + LEVEL) / 2, len(runs) - 1) * stats.sem(runs, axis=0))


def mean_of_runs(scores: np.ndarray) -> Estimate:
    """
    Return the mean over runs with Student's t interval.

    :param scores: Shape ``(runs,)``
    """
    if len(scores) < 2:
        return Estimate(float(np.mean(scores)))
    half = half_width(scores)
    return Estimate(float(scores.mean()), float(scores.mean() - half), float(scores.mean() + half))


def difference(scores: Mapping[int, float], baseline: Mapping[int, float], paired: bool) -> Estimate | None:
    """
    Return the mean difference of two arms on one game.

    :param scores: The arm's scores by seed
    :param baseline: The baseline's scores by seed
    :param paired: Whether equal seeds mean equal environments: then subtract seed by seed, else Welch
    :return: None if there is nothing to compare
    """
    if paired:
        pairs = paired_differences(scores, baseline)
        return mean_of_runs(pairs) if len(pairs) else None
    ours, theirs = np.array([*scores.values()]), np.array([*baseline.values()])
    if not len(ours) or not len(theirs):
        return None
    value = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return Estimate(value)
    if ours.std() == theirs.std() == 0:
        return Estimate(value, value, value)
    interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(LEVEL)
    return Estimate(value, float(interval.low), float(interval.high))


def paired_differences(scores: Mapping[int, float], baseline: Mapping[int, float]) -> np.ndarray:
    """Return ``score - baseline`` of the seeds that both have, shape ``(seeds,)``."""
    return np.array([scores[seed] - baseline[seed] for seed in scores if seed in baseline])


def seeds_needed(effect: float) -> int | None:
    """
    Return how many pairs of runs show a difference with 80 % probability, at a level of 95 %.

    :param effect: Mean difference in units of its standard deviation
    :return: The number, or None if it is above 1,000
    """
    n = np.arange(2, MOST_SEEDS + 1)
    power = stats.nct.sf(stats.t.ppf((1 + LEVEL) / 2, n - 1), n - 1, abs(effect) * np.sqrt(n))
    enough = n[power >= POWER]
    return int(enough[0]) if len(enough) else None
