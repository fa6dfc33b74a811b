"""What the runs of one game say: each arm's scores and curve, and each arm against the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_coordconv.compare import statistics
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.human import REFERENCE
from rl_coordconv.compare.rundata import RunData
from rl_coordconv.compare.statistics import Estimate
from rl_coordconv.compare.verdicts import UNDECIDED, Question, Verdict

# Runs have taken off or not where they make two groups of 2 or more, further apart than each is wide, times
# this.
GAP = 1.5
FEWEST_FOR_GROUPS = 6
# Or where 2 or more have not come this share of the way from random play to the median run.
STUCK = 0.15
# Final evaluations come after equally many steps if these differ by no more than this share: SB3 ends a
# training with a whole rollout, RL Zoo with its last evaluation.
SAME_STEPS = 0.05


@dataclass(frozen=True)
class ArmOnGame:
    """
    An arm's runs on one game.

    :param scores: Raw return by seed
    :param final: Their mean
    :param curve: Mean, lower and upper end of the band on the grid, shape ``(3, points)``
    :param singles: The curve of every run that left an agent on the grid, NaN before its first game, shape
        ``(runs, points)``; where none did, random play
    :param foreign: Trained elsewhere
    """

    scores: dict[int, float]
    final: Estimate
    curve: np.ndarray
    singles: np.ndarray
    foreign: bool

    @property
    def values(self) -> np.ndarray:
        """The scores, shape ``(runs,)``."""
        return np.array([*self.scores.values()])


@dataclass(frozen=True)
class Versus:
    """
    An arm against the baseline on one game.

    :param difference: Of the mean scores
    :param improvement: Probability that a run of the arm beats one of the baseline
    :param rank_p_value: Of the exact Mann-Whitney test
    :param seeds: Runs of each, in words
    :param spread: Standard deviation of a run's score, of both arms together; if paired, of a seed's
        difference
    :param paired: Whether the difference is taken seed by seed
    :param fewest: Runs of the arm that has fewer
    :param verdict: See :mod:`.verdicts`
    """

    difference: Estimate
    improvement: Estimate
    rank_p_value: float
    seeds: str
    spread: float
    paired: bool
    fewest: int
    verdict: Verdict = UNDECIDED

    @property
    def question(self) -> Question:
        """What the decision rule is asked."""
        enough = self.fewest >= statistics.RANK_RUNS
        return Question(self.difference, self.rank_p_value if enough else 1.0)


@dataclass(frozen=True)
class GameResult:
    """
    What one game says.

    :param game: Its name
    :param grid: Steps, shape ``(points,)``
    :param arms: By arm; those without a score are absent
    :param score: What the scores are: ``eval`` or ``train``
    :param took_off: Score above which a run has taken off, where runs fall into two groups, else None
    """

    game: str
    grid: np.ndarray
    arms: dict[str, ArmOnGame]
    score: str
    took_off: float | None


def game_result(
    comparison: Comparison, game: str, runs: Sequence[RunData], diverged: Sequence[RunData], grid: np.ndarray
) -> GameResult:
    """
    Return what the runs of one game say.

    :param comparison: What is compared
    :param game: The game
    :param runs: Those taking part
    :param diverged: Those that left no agent: they count as random play, where its score is known
    :param grid: The steps at which they are compared
    """
    score = kind_of_score(comparison, runs)
    arms = {}
    for arm in comparison.arms:
        ours = [run for run in runs if run.arm == arm]
        scores = {run.seed: _score(run, score, grid) for run in ours}
        if game in REFERENCE:
            scores |= {run.seed: REFERENCE[game][0] for run in diverged if run.arm == arm}
        known = {
            seed: value for seed, value in sorted(scores.items()) if value is not None and np.isfinite(value)
        }
        if known:
            # Where no run left an agent, all that is known is the score of random play.
            flat = [np.full(len(grid), value) for value in known.values()]
            singles = np.array([run.at(grid) for run in ours] or flat)
            final = statistics.mean_of_runs(np.array([*known.values()]))
            arms[arm] = ArmOnGame(known, final, curve_band(singles), singles, arm in comparison.foreign)
    random = REFERENCE[game][0] if game in REFERENCE else None
    groups = two_groups([on_game.values for on_game in arms.values()], random)
    return GameResult(game, grid, arms, score, groups)


def _score(run: RunData, kind: str, grid: np.ndarray) -> float | None:
    return run.eval_score if kind == "eval" else float(run.at(grid)[-1])


def kind_of_score(comparison: Comparison, runs: Sequence[RunData]) -> str:
    """
    Return what the scores of one game are, the same for all arms.

    :param comparison: What is compared
    :param runs: Those taking part
    :return: ``eval`` if it is wanted, every arm has a run with a final evaluation, and those come after
        equally many steps, else ``train``, which can be cut to the same steps
    """
    evaluated = [run for run in runs if run.eval_score is not None]
    steps = [run.last_step for run in evaluated] or [0]
    is_fair = {run.arm for run in evaluated} == {run.arm for run in runs}
    is_fair &= all(run.eval_score is not None for run in runs if run.foreign)  # else no verdict ever
    return comparison.score if is_fair and min(steps) >= (1 - SAME_STEPS) * max(steps) else "train"


def curve_band(curves: np.ndarray) -> np.ndarray:
    """
    Return mean and band of an arm's curves.

    :param curves: Shape ``(runs, points)``; NaN before a run's first game
    :return: Mean, lower, upper, shape ``(3, points)``: from 3 runs on the 95 % interval of the mean
        (Student's t), with 2 the lower and the higher one; NaN until every run has finished a game
    """
    mean = curves.mean(axis=0)
    if len(curves) < statistics.INTERVAL_RUNS:
        return np.stack([mean, curves.min(axis=0), curves.max(axis=0)])
    half = statistics.half_width(curves)
    return np.stack([mean, mean - half, mean + half])


def two_groups(scores: Sequence[np.ndarray], random: float | None = None) -> float | None:
    """
    Return the score that parts the runs of a game into two groups, or None where they make one.

    :param scores: Of every arm; some arm must have runs in both groups, else it is the arms that differ
    :param random: Score of random play, where it is known
    """
    values = np.sort(np.concatenate(list(scores))) if scores else np.empty(0)
    if len(values) < FEWEST_FOR_GROUPS:
        return None
    widest = int(np.argmax(np.diff(values)[1:-1])) + 1
    low, high = np.split(values, [widest + 1])
    if high[0] - low[-1] <= GAP * max(np.ptp(low), np.ptp(high)):
        if random is None:
            return None
        way = float(np.median(values)) - random
        is_low = values < random + STUCK * way
        low, high = values[is_low], values[~is_low]
        # The median run has left random play, by more than those that have not differ.
        if way <= 0 or len(low) < 2 or way <= GAP * np.ptp(low):
            return None
    middle = float((low[-1] + high[0]) / 2)
    return middle if any(arm.min() < middle < arm.max() for arm in scores) else None


def shared_scores(ours: ArmOnGame, baseline: ArmOnGame) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the seeds that both arms have, in the same order."""
    seeds = [seed for seed in ours.scores if seed in baseline.scores]
    return np.array([ours.scores[seed] for seed in seeds]), np.array(
        [baseline.scores[seed] for seed in seeds]
    )


def compare_on_game(ours: ArmOnGame, baseline: ArmOnGame, paired: bool) -> Versus:
    """
    Return an arm against the baseline on one game, still without a verdict.

    :param ours: The arm
    :param baseline: The baseline
    :param paired: Whether pairing pays for this arm: then seed by seed where both have the same seeds
    """
    mine, theirs = ours.values, baseline.values
    # Differences that are all alike have no spread to test by.
    paired = paired and set(ours.scores) == set(baseline.scores) and np.ptp(mine - theirs) > 0
    n = f"{len(mine)}" if len(mine) == len(theirs) else f"{len(mine)} and {len(theirs)}"
    spreads = (mine - theirs,) if paired else (mine, theirs)
    variances = [scores.var(ddof=1) if len(scores) > 1 else 0.0 for scores in spreads]
    return Versus(
        statistics.difference(mine, theirs, paired),
        statistics.improvement_on_game(mine, theirs),
        statistics.mann_whitney(mine, theirs),
        f"{n} {'paired ' if paired else ''}seeds",
        float(np.sqrt(np.mean(variances))),
        paired,
        min(len(mine), len(theirs)),
    )
