"""
Aggregates over games with intervals, for any number of runs per game.

They are rliable's (Agarwal et al., 2021, arXiv:2108.13264). Their standard error comes from leaving out one
run at a time within its game (the stratified jackknife, exact for means), and the interval reaches out by
Student's t with Satterthwaite's degrees of freedom: where one wild game decides the aggregate, it has the few
degrees of freedom of that game. Arms are trained independently, so the error of a difference is made of the
errors of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from rl_coordconv.compare.statistics import LEVEL, Estimate, beaten, newcombe_variance

TRIM = 0.25
Scores = Sequence[np.ndarray]


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


def permutation_p_value(scores: Scores, baseline: Scores, statistic: Statistic, draws: int = 1999) -> float:
    """
    Return the two-sided p-value of a difference of aggregates, by giving each game's runs to the arms anew.

    If no arm is better, each game's runs could have been either arm's: the test is exact whatever the scores
    are like, to the number of draws (Phipson and Smyth, 2010, arXiv:1603.05766), whose seed is fixed.

    :param scores: The arm's, per game
    :param baseline: The baseline's, per game
    :param statistic: E.g. :func:`iqm`
    :param draws: How many times they are given anew
    """
    rng = np.random.default_rng(0)
    parts = [np.concatenate(pair) for pair in zip(scores, baseline, strict=True)]
    weights = []
    for ours, runs in zip(scores, parts, strict=True):
        place = rng.permuted(np.tile(np.arange(len(runs)), (draws + 1, 1)), axis=1)
        place[0] = np.arange(len(runs))  # as it was
        is_ours = place < len(ours)
        shares = [1 / len(ours), 1 / (len(runs) - len(ours))]
        weights.append(np.stack([is_ours * shares[0], ~is_ours * shares[1]]) / len(parts))
    values, arms = np.concatenate(parts), np.concatenate(weights, axis=2)
    found = np.abs(statistic(values, arms[0]) - statistic(values, arms[1]))
    return float(np.mean(found >= found[0] - 1e-9 * np.abs(values).max()))


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
        wins = beaten(ours, theirs)
        values.append(wins.mean())
        shrunk = np.array((wins.sum() + 0.5) / (wins.size + 1))
        least = float(newcombe_variance(shrunk, *wins.shape))
        if min(wins.shape) < 2:
            parts = [np.nan, np.nan]
        else:
            parts = [
                wins.mean(axis=1).var(ddof=1) / len(ours),
                wins.mean(axis=0).var(ddof=1) / len(theirs),
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
