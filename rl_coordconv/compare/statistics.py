"""
Scores with intervals, within a game and over games, for runs as few and as uneven as people can afford.

Over games, rliable's aggregates (Agarwal et al., 2021, arXiv:2108.13264) are computed for any number of
runs per game. Their standard error comes from leaving out one run at a time within its game (the stratified
jackknife, exact for means), and the interval reaches out by Student's t with Satterthwaite's degrees of
freedom: where one wild game decides the aggregate, it has the few degrees of freedom of that game. Arms are
trained independently, so the error of a difference is made of the errors of both.

``scripts/coverage.py`` shows what these intervals and verdicts hold on simulated Atari scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
POWER = 0.8
# From this many runs on, an interval says more than the runs themselves.
INTERVAL_RUNS = 3
MOST_SEEDS = 1000
TRIM = 0.25
Scores = Sequence[np.ndarray]


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


# --- within a game --------------------------------------------------------------------------------


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
    :param paired: See :func:`pairing_pays`
    :return: Without interval and p-value below 3 runs of either, or if all runs of both arms are equal
    """
    value = float(scores.mean() - baseline.mean())
    if min(len(scores), len(baseline)) < INTERVAL_RUNS:
        return Estimate(value)
    if max(np.ptp(scores), np.ptp(baseline)) == 0:
        return Estimate(value)
    paired = paired and np.ptp(scores - baseline) > 0
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
    """Return the p-value of the exact Mann-Whitney test (asymptotic where scores tie), two-sided."""
    return float(stats.mannwhitneyu(scores, baseline, method="auto").pvalue)


def improvement_on_game(scores: np.ndarray, baseline: np.ndarray) -> Estimate:
    """
    Return how likely a run of an arm is to beat a run of the baseline on one game, ties counted half.

    The interval is Newcombe's score interval of the Mann-Whitney statistic (2006, Statistics in Medicine 25,
    method 5) with Student's t for the normal quantile; it stays uncertain under complete separation.

    :param scores: Shape ``(runs,)``
    :param baseline: Shape ``(runs of the baseline,)``
    """
    value = float(_beaten(scores, baseline).mean())
    ours, theirs = len(scores), len(baseline)
    if min(ours, theirs) < INTERVAL_RUNS:
        return Estimate(value)
    quantile = stats.t.ppf((1 + LEVEL) / 2, ours + theirs - 2)
    theta = np.linspace(0, 1, 2001)
    inside = (value - theta) ** 2 <= quantile**2 * _newcombe(theta, ours, theirs)
    return Estimate(value, float(theta[inside][0]), float(theta[inside][-1]))


def _beaten(scores: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return 1 where a run of the arm beats one of the baseline, 0.5 where they tie, else 0."""
    ours, theirs = scores[:, None], baseline[None, :]
    return (ours > theirs) + 0.5 * (ours == theirs)


def _newcombe(theta: np.ndarray, ours: int, theirs: int) -> np.ndarray:
    more = (ours + theirs) / 2 - 1
    inner = 1 + more * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return np.asarray(theta * (1 - theta) / (ours * theirs) * inner)


# --- over games -----------------------------------------------------------------------------------


def iqm(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    Return the mean of the middle half, to the fraction of a run (rliable leaves out whole runs, at most a
    quarter).

    :param values: Shape ``(runs,)``
    :param weights: Their weights, each row summing to 1, shape ``(k, runs)``
    :return: Shape ``(k,)``
    """
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[:, order]
    ends = np.cumsum(weights, axis=1)
    kept = np.minimum(ends, 1 - TRIM) - np.maximum(ends - weights, TRIM)
    kept = np.maximum(kept, 0)
    return np.asarray(kept @ values / kept.sum(axis=1))


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean; shapes as for :func:`iqm`."""
    return np.asarray(weights @ values)


def optimality_gap(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return how far runs fall short of 1 on average; shapes as for :func:`iqm`."""
    return np.asarray(1 - weights @ np.minimum(values, 1))


def median(scores: Scores) -> float:
    """Return rliable's median over games of the mean over runs."""
    return float(np.median([game.mean() for game in scores]))


Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def jackknife(scores: Scores, statistic: Statistic) -> tuple[float, np.ndarray, np.ndarray]:
    """
    Return an aggregate over games with the parts of its variance.

    :param scores: Human-normalised scores per game, each of shape ``(runs,)``; every game weighs the same
    :param statistic: E.g. :func:`iqm`
    :return: Value; variance from each game and its degrees of freedom, both NaN where a game has one run,
        shape ``(games,)``
    """
    values = np.concatenate(list(scores))
    counts = np.array([len(game) for game in scores])
    game_of = np.repeat(np.arange(len(counts)), counts)
    weights = 1.0 / (len(counts) * counts[game_of])
    with np.errstate(divide="ignore"):
        grown = 1.0 / (len(counts) * (counts[game_of] - 1.0))
    without = np.where(game_of[:, None] == game_of[None, :], grown[None, :], weights[None, :])
    without[np.isinf(without)] = 0.0
    np.fill_diagonal(without, 0.0)
    left_out = statistic(values, without)
    variances = np.array(
        [
            (n - 1) / n * np.sum((left_out[game_of == game] - left_out[game_of == game].mean()) ** 2)
            if n > 1
            else np.nan
            for game, n in enumerate(counts)
        ]
    )
    value = float(statistic(values, weights[None, :])[0])
    return value, variances, np.where(counts > 1, counts - 1.0, np.nan)


def interval(value: float, variances: np.ndarray, degrees: np.ndarray) -> Estimate:
    """
    Return a value with the interval that its variance allows.

    :param value: The value
    :param variances: Independent parts of its variance, shape ``(parts,)``
    :param degrees: Their degrees of freedom, shape ``(parts,)``
    :return: The interval by Student's t with Satterthwaite's degrees of freedom, and the p-value of 0;
        neither where a part is not known, or nothing varies
    """
    total = float(variances.sum())
    if not np.isfinite(total) or total <= 0:
        return Estimate(value)
    effective = total**2 / float(np.sum(variances**2 / degrees))
    half = float(stats.t.ppf((1 + LEVEL) / 2, effective) * np.sqrt(total))
    p_value = float(2 * stats.t.sf(abs(value) / np.sqrt(total), effective))
    return Estimate(value, value - half, value + half, p_value)


def aggregate(scores: Scores, statistic: Statistic) -> Estimate:
    """
    Return an aggregate over games with its interval.

    :param scores: Human-normalised scores per game, each of shape ``(runs,)``
    :param statistic: E.g. :func:`iqm`
    """
    return interval(*jackknife(scores, statistic))


def aggregate_difference(scores: Scores, baseline: Scores, statistic: Statistic) -> Estimate:
    """
    Return the difference of two arms' aggregates over the same games, with its interval and p-value.

    :param scores: The arm's, per game
    :param baseline: The baseline's, per game
    :param statistic: E.g. :func:`iqm`
    """
    ours, theirs = (jackknife(arm, statistic) for arm in (scores, baseline))
    parts = (np.concatenate(pair) for pair in zip(ours[1:], theirs[1:], strict=True))
    return interval(ours[0] - theirs[0], *parts)


def improvement_over_games(scores: Scores, baseline: Scores) -> Estimate:
    """
    Return how likely a run of an arm is to beat a run of the baseline, averaged over games.

    Each game's variance is that of the placements (DeLong et al., 1988), but no less than Newcombe's, which
    stays positive where all runs of one arm beat all of the other.

    :param scores: The arm's, per game
    :param baseline: The baseline's, per game
    """
    values, variances, degrees = [], [], []
    for ours, theirs in zip(scores, baseline, strict=True):
        beaten = _beaten(ours, theirs)
        values.append(beaten.mean())
        shrunk = np.array((beaten.sum() + 0.5) / (beaten.size + 1))
        least = float(_newcombe(shrunk, *beaten.shape))
        if min(beaten.shape) < 2:
            parts = [np.nan, np.nan]
        else:
            parts = [
                beaten.mean(axis=1).var(ddof=1) / len(ours),
                beaten.mean(axis=0).var(ddof=1) / len(theirs),
            ]
            parts = [part * max(1.0, least / sum(parts)) if sum(parts) else least / 2 for part in parts]
        variances += parts
        degrees += [len(ours) - 1, len(theirs) - 1]
    found = interval(
        float(np.mean(values)), np.array(variances) / len(values) ** 2, np.array(degrees, dtype=float)
    )
    if found.low is None or found.high is None:
        return found
    return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0))


def performance_profile(scores: Scores, taus: np.ndarray) -> np.ndarray:
    """
    Return the share of runs above each score, with its interval.

    :param scores: Human-normalised scores per game
    :param taus: Scores, shape ``(k,)``
    :return: Share, lower and upper end, shape ``(3, k)``; the ends are NaN where a game has one run
    """
    found = [aggregate([game > tau for game in scores], mean) for tau in taus]
    values = np.array([estimate.value for estimate in found])
    # Where no run's side is open the ends are the value itself; with one run of a game nothing is known.
    unknown = values if all(len(game) > 1 for game in scores) else np.full(len(taus), np.nan)
    ends = np.array([[estimate.low, estimate.high] for estimate in found], dtype=float).T
    return np.clip(np.vstack([values, np.where(np.isnan(ends), unknown, ends)]), 0, 1)


# --- several verdicts, and how many runs they take ------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, 1979): below 0.05, all such hold together at 95 %."""
    order = np.argsort(p_values)
    steps = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return [float(value) for value in corrected]


def power(effect: float, n: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """
    Return the probability that a difference is shown with ``n`` runs of each of two arms (two-sample t-test).

    :param effect: The difference in standard deviations of a run's score
    :param n: Runs of each arm, shape ``(k,)``
    :param level: Of the test
    """
    degrees = 2 * n - 2
    return np.asarray(
        stats.nct.sf(stats.t.ppf((1 + level) / 2, degrees), degrees, abs(effect) * np.sqrt(n / 2))
    )


def detectable(n: int, level: float = LEVEL) -> float:
    """
    Return the smallest difference that ``n`` runs of each arm show with 80 % probability, see :func:`power`.
    """
    effects = np.geomspace(0.05, 100, 2000)
    enough = [effect for effect in effects if power(effect, np.array(float(n)), level) >= POWER]
    return float(enough[0]) if enough else float("inf")


def seeds_needed(effect: float) -> int | None:
    """
    Return how many runs of each arm show a difference with 80 % probability, at a level of 95 %.

    :param effect: The difference in standard deviations of a run's score
    :return: The number, at least 3, or None if it is above 1,000
    """
    n = np.arange(INTERVAL_RUNS, MOST_SEEDS + 1)
    enough = n[power(effect, n) >= POWER]
    return int(enough[0]) if len(enough) else None
