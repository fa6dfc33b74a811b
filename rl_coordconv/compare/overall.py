"""What all games say together, in human-normalised scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rl_coordconv.compare import aggregation
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.games import GameResult
from rl_coordconv.compare.human import REFERENCE, human_normalised
from rl_coordconv.compare.statistics import Estimate
from rl_coordconv.compare.verdicts import UNDECIDED, Question, Verdict

AGGREGATES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "IQM": aggregation.iqm,
    "mean": aggregation.mean,
    "optimality gap": aggregation.optimality_gap,
}


@dataclass(frozen=True)
class ArmOverall:
    """
    An arm over all its games.

    :param games: Those with a human reference
    :param scores: Human-normalised, per game
    :param aggregates: IQM, mean, optimality gap and median (without interval)
    :param curve: IQM over equal shares of each game's steps, with its interval, shape ``(3, points)``
    """

    games: list[str]
    scores: list[np.ndarray]
    aggregates: dict[str, Estimate]
    curve: np.ndarray


@dataclass(frozen=True)
class VersusOverall:
    """
    An arm against the baseline over the games that both have.

    :param games: Those games
    :param difference: Of the IQMs
    :param improvement: Probability that a run of the arm beats one of the baseline, averaged over games
    :param exact_p_value: Of the permutation test of that difference
    :param verdict: See :mod:`.verdicts`
    """

    games: list[str]
    difference: Estimate
    improvement: Estimate
    exact_p_value: float
    verdict: Verdict = UNDECIDED

    @property
    def question(self) -> Question:
        """What the decision rule is asked."""
        return Question(self.difference, self.exact_p_value)


def arms_overall(comparison: Comparison, games: Sequence[GameResult]) -> dict[str, ArmOverall]:
    """
    Return every arm over the games that it has, if they are two or more.

    :param comparison: What is compared
    :param games: Results of each game
    """
    found = {}
    for arm in comparison.arms:
        ours = [result for result in games if result.game in REFERENCE and arm in result.arms]
        if len(ours) > 1:
            scores = [normalised(result, arm) for result in ours]
            aggregates = {name: aggregation.aggregate(scores, kind) for name, kind in AGGREGATES.items()}
            aggregates["median"] = Estimate(aggregation.median(scores))
            found[arm] = ArmOverall([result.game for result in ours], scores, aggregates, _curve(ours, arm))
    return found


def normalised(result: GameResult, arm: str) -> np.ndarray:
    """Return an arm's human-normalised scores on one game, shape ``(runs,)``."""
    return human_normalised(result.game, result.arms[arm].values)


def _curve(games: Sequence[GameResult], arm: str) -> np.ndarray:
    """Return the IQM over shares of the steps; NaN until every run of every game has finished a game."""
    points = min(len(result.grid) for result in games)
    singles = []
    for result in games:
        places = np.linspace(0, len(result.grid) - 1, points).round().astype(int)
        singles.append(human_normalised(result.game, result.arms[arm].singles[:, places].T))
    curve = np.full((3, points), np.nan)
    for point in range(points):
        scores = [single[point] for single in singles]
        if all(np.isfinite(game).all() for game in scores):
            found = aggregation.aggregate(scores, aggregation.iqm)
            ends = (found.value if end is None else end for end in (found.low, found.high))
            curve[:, point] = (found.value, *ends)
    return curve


def compare_overall(comparison: Comparison, games: Sequence[GameResult], arm: str) -> VersusOverall | None:
    """
    Return an arm against the baseline over games, or None unless two games have both.

    :param comparison: What is compared
    :param games: Results of each game
    :param arm: The arm
    :return: From the games in which both have two runs or more, if there are two such games
    """
    both = [
        result
        for result in games
        if result.game in REFERENCE and arm in result.arms and comparison.baseline in result.arms
    ]
    names = (arm, comparison.baseline)
    several = [result for result in both if min(len(result.arms[name].scores) for name in names) > 1]
    both = several if len(several) > 1 else both
    if len(both) < 2:
        return None
    ours, theirs = ([normalised(result, name) for result in both] for name in names)
    difference = aggregation.aggregate_difference(ours, theirs, aggregation.iqm)
    improvement = aggregation.improvement_over_games(ours, theirs)
    p_value = aggregation.permutation_p_value(ours, theirs, aggregation.iqm)
    return VersusOverall([result.game for result in both], difference, improvement, p_value)
