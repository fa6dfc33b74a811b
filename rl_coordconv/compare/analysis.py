"""From the runs of a comparison to what its report, its figures and its TensorBoard page say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rl_coordconv.compare import statistics
from rl_coordconv.compare.collect import collect
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.human import REFERENCE, human_normalised
from rl_coordconv.compare.rundata import RunData, taking_part
from rl_coordconv.compare.statistics import Estimate
from rl_coordconv.compare.versus import ArmOnGame, Versus, compare_on_game

# A score of fewer full games than this is flagged.
FEW_GAMES = 20
STATES = {
    ("running", "stopped", "unfinished"): "Not finished, reported as far as they are",
    ("failed",): "Failed",
    ("diverged",): "Diverged",
}


@dataclass(frozen=True)
class GameResult:
    """
    What one game says.

    :param game: Its name
    :param grid: Steps, shape ``(GRID_POINTS,)``
    :param arms: By arm; those without a finished game are absent
    :param versus: By arm other than the baseline
    :param score: What the scores are: ``eval`` or ``train``
    """

    game: str
    grid: np.ndarray
    arms: dict[str, ArmOnGame]
    versus: dict[str, Versus]
    score: str


@dataclass(frozen=True)
class Overall:
    """
    What all games say together, in human-normalised scores of the seeds that every arm has on every game.

    :param games: Columns of the matrices
    :param seeds: Rows of the matrices
    :param matrices: By arm, shape ``(seeds, games)``
    :param aggregates: IQM and optimality gap by arm
    :param improvement: Probability of improvement by arm other than the baseline
    """

    games: list[str]
    seeds: list[int]
    matrices: dict[str, np.ndarray]
    aggregates: dict[str, dict[str, Estimate]]
    improvement: dict[str, Estimate]


@dataclass(frozen=True)
class Analysis:
    """
    Everything.

    :param comparison: What was compared
    :param runs: All runs that have begun
    :param games: In the comparison's order, those with at least one finished game
    :param overall: None while arms have no seed and game in common
    :param notes: What the reader must know: runs left out, cut, missing, failed
    """

    comparison: Comparison
    runs: list[RunData]
    games: list[GameResult]
    overall: Overall | None
    notes: list[str] = field(default_factory=list)


def analyse(comparison: Comparison) -> Analysis:
    """
    Read and compute everything, from whatever is there.

    :param comparison: From ``Comparison.load``
    :raises UserError: A run trained elsewhere cannot be read
    """
    runs = collect(comparison)
    notes = _missing(comparison, runs)
    games = []
    for game in comparison.games:
        all_runs = [run for run in runs if run.game == game]
        taking, grid = taking_part(all_runs)
        notes += _cuts(game, all_runs, taking, grid)
        if taking:
            games.append(game_result(comparison, game, taking, grid))
            notes += _scores(comparison, games[-1], taking)
    return Analysis(comparison, runs, games, overall(comparison, games), notes)


def game_result(comparison: Comparison, game: str, runs: Sequence[RunData], grid: np.ndarray) -> GameResult:
    """
    Return what the runs of one game say.

    :param comparison: What is compared
    :param game: The game
    :param runs: Those taking part
    :param grid: The steps at which they are compared
    """
    arms = {}
    score = kind_of_score(comparison, runs)
    for arm in comparison.arms:
        curves = {run.seed: run.at(grid) for run in runs if run.arm == arm}
        scores = {seed: float(curve[-1]) for seed, curve in curves.items()}
        if score == "eval":
            ours = {run.seed: run.eval_score for run in runs if run.arm == arm}
            scores = {seed: found for seed, found in ours.items() if found is not None}
        if curves:
            final = statistics.mean_of_runs(np.array([*scores.values()]))
            band = curve_band(np.array([*curves.values()]))
            arms[arm] = ArmOnGame(scores, final, band, arm in comparison.foreign)
    baseline = arms.get(comparison.baseline)
    versus = {
        arm: found
        for arm, ours in arms.items()
        if baseline is not None and arm != comparison.baseline and (found := compare_on_game(ours, baseline))
    }
    return GameResult(game, grid, arms, versus, score)


def kind_of_score(comparison: Comparison, runs: Sequence[RunData]) -> str:
    """
    Return what the scores of one game are, the same for all arms.

    :param comparison: What is compared
    :param runs: Those taking part
    :return: ``eval`` if it is wanted and every arm has a run with a final evaluation, else ``train``
    """
    arms = {run.arm for run in runs}
    evaluated = {run.arm for run in runs if run.eval_score is not None}
    return comparison.score if evaluated == arms else "train"


def curve_band(curves: np.ndarray) -> np.ndarray:
    """
    Return mean and band of an arm's curves.

    :param curves: Shape ``(runs, points)``; NaN before a run's first game
    :return: Mean, lower, upper, shape ``(3, points)``: from 3 runs on the 95 % interval of the mean
        (Student's t), with 2 the lower and the higher one; NaN until every run has finished a game
    """
    n, mean = len(curves), curves.mean(axis=0)
    if n < 3:
        return np.stack([mean, curves.min(axis=0), curves.max(axis=0)])
    half = statistics.half_width(curves)
    return np.stack([mean, mean - half, mean + half])


def overall(comparison: Comparison, games: Sequence[GameResult]) -> Overall | None:
    """
    Return what all games say together, or None while no seed of any game is there in every arm.

    :param comparison: What is compared
    :param games: Results of each game
    """
    shared = [
        result for result in games if result.game in REFERENCE and set(result.arms) == set(comparison.arms)
    ]
    numbers = [set(on_game.scores) for result in shared for on_game in result.arms.values()]
    seeds = sorted(set.intersection(*numbers)) if numbers else []
    if not seeds:
        return None
    matrices = {
        arm: np.array(
            [
                [human_normalised(result.game, result.arms[arm].scores[seed]) for result in shared]
                for seed in seeds
            ]
        )
        for arm in comparison.arms
    }
    others = [arm for arm in comparison.arms if arm != comparison.baseline]
    return Overall(
        [result.game for result in shared],
        seeds,
        matrices,
        {arm: statistics.aggregate(matrix) for arm, matrix in matrices.items()},
        {
            arm: statistics.improvement_over_games(matrices[arm], matrices[comparison.baseline])
            for arm in others
        },
    )


def _missing(comparison: Comparison, runs: Sequence[RunData]) -> list[str]:
    """Say which runs have not begun or not ended, and which games have no human reference."""
    there = {(run.game, run.arm, run.seed) for run in runs}
    wanted = [
        (game, arm, seed)
        for game in comparison.games
        for arm in comparison.arms
        for seed in comparison.seeds
        if arm not in comparison.foreign
    ]
    notes = []
    if absent := [f"{game}/{arm}/seed{seed}" for game, arm, seed in wanted if (game, arm, seed) not in there]:
        notes.append(f"Not begun: {_listed(absent)}.")
    for states, what in STATES.items():
        if found := [_with_reason(run) for run in runs if run.progress.state in states]:
            notes.append(f"{what}: {_listed(found)}.")
    if unknown := [game for game in comparison.games if game not in REFERENCE]:
        notes.append(f"No human reference score, so not in the human-normalised figures: {_listed(unknown)}.")
    if len(comparison.seeds) < 2:
        notes.append("Fewer than two seeds: no interval can be given, and no verdict.")
    return notes


def _with_reason(run: RunData) -> str:
    reason = run.progress.exit_reason if run.progress.state in ("failed", "diverged") else ""
    return f"{run.name} ({reason})" if reason else run.name


def _scores(comparison: Comparison, result: GameResult, runs: Sequence[RunData]) -> list[str]:
    """Say where scores are not the final evaluation that was asked for, or are of few games."""
    if comparison.score == "train":
        return []
    without = [run for run in runs if run.eval_score is None]
    names = _listed([f"{run.arm}/seed{run.seed}" for run in without])
    if result.score == "train":
        return [
            f"{result.game}: scores are the last training games, as an arm has no final evaluation: {names}."
        ]
    few = min(run.eval_games for run in runs if run.eval_score is not None)
    notes = [f"{result.game}: without a final evaluation, so not in the scores: {names}."] if without else []
    if few < FEW_GAMES:
        notes.append(f"{result.game}: scores of only {few} games: set final_eval_episodes to 20 or more.")
    return notes


def _cuts(game: str, runs: Sequence[RunData], taking: Sequence[RunData], grid: np.ndarray) -> list[str]:
    """Say which runs of a game are left out or cut to the common grid."""
    notes = []
    names = {id(run): f"{run.arm}/seed{run.seed} ({run.last_step:,} steps)" for run in runs}
    if out := [names[id(run)] for run in runs if not any(run is other for other in taking)]:
        notes.append(f"{game}: left out until further on or with a finished game: {_listed(out)}.")
    end = round(grid[-1]) if len(grid) else 0
    if cut := [names[id(run)] for run in taking if run.last_step > end]:
        notes.append(f"{game}: runs differ in length; cut to the first {end:,} steps: {_listed(cut)}.")
    return notes


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
