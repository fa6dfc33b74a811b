"""From the runs of a comparison to what its report, its figures and its TensorBoard page say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from rl_coordconv.compare import statistics
from rl_coordconv.compare.collect import Collected, collect
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.games import GameResult, Versus, compare_on_game, game_result, shared_scores
from rl_coordconv.compare.notes import (
    about_aggregates,
    about_lengths,
    about_runs,
    about_scores,
    about_windows,
)
from rl_coordconv.compare.overall import ArmOverall, VersusOverall, arms_overall, compare_overall
from rl_coordconv.compare.rundata import RunData, taking_part
from rl_coordconv.compare.verdicts import Verdict, decide


@dataclass(frozen=True)
class Analysis:
    """
    Everything.

    :param comparison: What was compared
    :param runs: All runs that have begun
    :param games: In the comparison's order, those with at least one finished game
    :param versus: Arms against the baseline, by game and arm
    :param overall: Arms over all games
    :param versus_overall: Arms against the baseline over all games
    :param interim: Whether runs are missing, so that nothing is decided
    :param notes: What the reader must know: runs left out, cut, missing, failed
    """

    comparison: Comparison
    runs: list[RunData]
    games: list[GameResult]
    versus: dict[str, dict[str, Versus]]
    overall: dict[str, ArmOverall]
    versus_overall: dict[str, VersusOverall]
    interim: bool
    notes: list[str] = field(default_factory=list)

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts of the report."""
        single = [versus.verdict for by_arm in self.versus.values() for versus in by_arm.values()]
        return [versus.verdict for versus in self.versus_overall.values()] + single


def analyse(comparison: Comparison, data: Collected | None = None) -> Analysis:
    """
    Compute everything, from whatever is there.

    :param comparison: From ``Comparison.load``
    :param data: Its runs, if they are read already
    :raises UserError: The recorded scores cannot be read
    """
    data = collect(comparison) if data is None else data
    runs = data.runs
    notes = [f"{name}: left out, as {reason}." for name, reason in data.broken.items()]
    notes += about_runs(comparison, runs, data.missing)
    interim = bool(data.missing or data.broken) or not all(run.ended for run in runs)
    games = []
    for game in comparison.games:
        here = [run for run in runs if run.game == game]
        diverged = [run for run in here if run.progress.state == "diverged"]
        whole = [run for run in here if run.progress.state != "diverged"]
        taking, grid = taking_part(whole)
        notes += about_lengths(game, whole, taking, grid)
        if taking:
            result = game_result(comparison, game, taking, diverged, grid)
            games.append(result)
            notes += about_scores(comparison, game, result.score, taking, result.took_off)
            interim |= result.score == "eval" and any(run.eval_score is None for run in taking)
            windows = about_windows(game, result.score, taking)
            notes += windows
            interim |= bool(windows)
        elif diverged and not whole:
            notes.append(f"{game}: left out, as no run left an agent.")
    versus, over_games = _decided(*_compared(comparison, games), interim)
    overall = arms_overall(comparison, games)
    n_games = max((len(found.games) for found in overall.values()), default=0)
    notes += about_aggregates(n_games, any(result.took_off is not None for result in games))
    return Analysis(comparison, runs, games, versus, overall, over_games, interim, notes)


def _compared(
    comparison: Comparison, games: Sequence[GameResult]
) -> tuple[dict[str, dict[str, Versus]], dict[str, VersusOverall]]:
    """Return every arm against the baseline, by game and over games, still without verdicts."""
    base = comparison.baseline
    versus: dict[str, dict[str, Versus]] = {result.game: {} for result in games}
    over_games = {}
    for arm in comparison.arms:
        both = [result for result in games if arm in result.arms and base in result.arms]
        if arm == base or not both:
            continue
        own = not any(result.arms[name].foreign for result in both for name in (arm, base))
        paired = own and statistics.pairing_pays(
            [shared_scores(result.arms[arm], result.arms[base]) for result in both]
        )
        for result in both:
            versus[result.game][arm] = compare_on_game(result.arms[arm], result.arms[base], paired)
        if found := compare_overall(comparison, games, arm):
            over_games[arm] = found
    return versus, over_games


def _decided(
    versus: dict[str, dict[str, Versus]], over_games: dict[str, VersusOverall], interim: bool
) -> tuple[dict[str, dict[str, Versus]], dict[str, VersusOverall]]:
    """Return the same with the verdicts, which are corrected for their number all together."""
    single = [(game, arm) for game, by_arm in versus.items() for arm in by_arm]
    questions = [over_games[arm].question for arm in over_games]
    questions += [versus[game][arm].question for game, arm in single]
    verdicts = iter(decide(questions, interim))
    over_games = {
        arm: dataclasses.replace(found, verdict=next(verdicts)) for arm, found in over_games.items()
    }
    decided: dict[str, dict[str, Versus]] = {game: {} for game in versus}
    for game, arm in single:
        decided[game][arm] = dataclasses.replace(versus[game][arm], verdict=next(verdicts))
    return decided, over_games
