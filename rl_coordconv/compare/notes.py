"""
What the reader of a report must know: runs missing, failed, cut or left out, few games, different machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.human import REFERENCE
from rl_coordconv.compare.matrix import MAY_DIFFER, SET_BY_MATRIX
from rl_coordconv.compare.rundata import RunData
from rl_coordconv.compare.tidy import MACHINE
from rl_coordconv.config import EXTRACTOR_OPTIONS
from rl_coordconv.options import read_yaml
from rl_coordconv.runs.folder import RunFolder

# A score of fewer full games than this is flagged.
FEW_GAMES = 20
# As many as in the paper, over which the intervals of aggregates hold what they say.
MANY_GAMES = 9
# Windows of runs compare where the runs' steps differ by no more than this share.
SAME_WINDOW = 0.25
STATES = {
    ("running", "stopped", "unfinished"): "Not finished, reported as far as they are",
    ("failed",): "Failed, reported as far as they are",
}


def about_runs(comparison: Comparison, runs: Sequence[RunData], missing: Sequence[str]) -> list[str]:
    """Say which runs have not begun or not ended, and what differs besides the arms."""
    notes = []
    if missing:
        notes.append(f"Not begun: {commas(missing)}.")
    for states, what in STATES.items():
        if found := [_with_reason(run) for run in runs if run.progress.state in states]:
            notes.append(f"{what}: {commas(found)}.")
    diverged = [run for run in runs if run.progress.state == "diverged"]
    if found := [_with_reason(run) for run in diverged if run.game in REFERENCE]:
        notes.append(
            f"Diverged, counted as random play (curves show the runs that are left): {commas(found)}."
        )
    if found := [_with_reason(run) for run in diverged if run.game not in REFERENCE]:
        notes.append(f"Diverged, left out as the score of random play is not known: {commas(found)}.")
    if unknown := [game for game in comparison.games if game not in REFERENCE]:
        notes.append(f"No human reference score, so not in the human-normalised figures: {commas(unknown)}.")
    if len(comparison.seeds) < 3:
        notes.append("Fewer than three seeds: a range of the runs is shown, no interval of a game.")
    return notes + [*comparison.remarks] + _machines(runs) + ([] if comparison.options else _options(runs))


def _with_reason(run: RunData) -> str:
    parts = [run.progress.exit_reason] if run.progress.state in ("failed", "diverged") else []
    parts += [f"{run.progress.attempts} attempts"] if run.progress.attempts > 1 else []
    reason = ", ".join(part for part in parts if part)
    return f"{run.name} ({reason})" if reason else run.name


def _machines(runs: Sequence[RunData]) -> list[str]:
    """
    Say on what different devices, processors and versions the runs were trained, and by arm if it matters.
    """
    return [
        note for name in MACHINE for note in _differing(name, [(run, run.machine.get(name)) for run in runs])
    ]


def _options(runs: Sequence[RunData]) -> list[str]:
    """Say in what else than the extractor runs differ that no comparison has put together."""
    own = [
        (run, flat_options(read_yaml(RunFolder(run.folder).config_file)))
        for run in runs
        if run.folder and not run.foreign
    ]
    names = dict.fromkeys(name for _, options in own for name in options)
    skipped = {"extractor", *EXTRACTOR_OPTIONS, *SET_BY_MATRIX, *MAY_DIFFER}
    return [
        note
        for name in names
        if name not in skipped and not name.startswith("extractor_kwargs.")
        for note in _differing(name, [(run, options.get(name)) for run, options in own])
    ]


def flat_options(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return options as text, those of a section by ``section.name``."""
    found: dict[str, str] = {}
    for name, value in values.items():
        found |= flat_options(value, f"{name}.") if isinstance(value, dict) else {prefix + name: str(value)}
    return found


def _differing(what: str, values: Sequence[tuple[RunData, str | None]]) -> list[str]:
    """Say how many runs have which value, and whether arms differ in it, if there are several."""
    known = [(run, value) for run, value in values if value]
    kinds = Counter(value for _, value in known)
    if len(kinds) < 2:
        return []
    by_arm = {run.arm: Counter[str]() for run, _ in values}
    for run, value in known:
        by_arm[run.arm][value] += 1
    shares = [{kind: n / counts.total() for kind, n in counts.items()} for counts in by_arm.values()]
    uneven = "; not evenly over the arms" if any(share != shares[0] for share in shares) else ""
    text = ", ".join(f"{kind} ({n} runs)" for kind, n in kinds.most_common())
    return [f"Trained with different {what}: {text}{uneven}."]


def about_scores(
    comparison: Comparison, game: str, kind: str, runs: Sequence[RunData], took_off: float | None
) -> list[str]:
    """Say where scores are not the final evaluation that was asked for, are of few games, or fall apart."""
    notes = []
    if took_off is not None:
        notes.append(
            f"{game}: runs fall into two groups, above and below {took_off:,.1f}: read how many "
            "took off, the median and the IQM beside the mean."
        )
    if comparison.score == "train":
        return notes
    names = commas([f"{run.arm}/seed{run.seed}" for run in runs if run.eval_score is None])
    if kind == "train":
        why = f"these have no final evaluation: {names}" if names else "final evaluations differ in steps"
        notes.append(f"{game}: scores are the last training games, as {why}.")
        return notes
    if names:
        notes.append(f"{game}: without a final evaluation, so not in the scores: {names}.")
    few = min(run.eval_games for run in runs if run.eval_score is not None)
    if few < FEW_GAMES:
        notes.append(f"{game}: scores of only {few} games: set final_eval_episodes to 20 or more.")
    return notes


def about_aggregates(n_games: int, has_groups: bool) -> list[str]:
    """Say where intervals over games hold less than 95 %; docs/results/coverage.md has how little."""
    if not 1 < n_games < MANY_GAMES or not has_groups:
        return []
    return [
        f"Over {n_games} games, of which some have runs in two groups, the interval of one arm's IQM may "
        "hold as little as 69 %, that of the difference of two 81 %: read the games one by one."
    ]


def about_lengths(
    game: str, runs: Sequence[RunData], taking: Sequence[RunData], grid: np.ndarray
) -> list[str]:
    """Say which runs of a game are left out or cut to the common grid."""
    notes = []
    names = {id(run): f"{run.arm}/seed{run.seed} ({run.last_step:,} steps)" for run in runs}
    if out := [names[id(run)] for run in runs if not any(run is other for other in taking)]:
        notes.append(f"{game}: left out until further on or with a finished game: {commas(out)}.")
    end = round(grid[-1]) if len(grid) else 0
    if cut := [names[id(run)] for run in taking if run.last_step > end]:
        notes.append(f"{game}: runs differ in length; cut to the first {end:,} steps: {commas(cut)}.")
    return notes


def about_windows(game: str, kind: str, taking: Sequence[RunData]) -> list[str]:
    """Say where scores are of training games in windows of different widths, so that there is no verdict."""
    totals = [run.total_steps for run in taking]
    if kind == "eval" or min(totals) >= (1 - SAME_WINDOW) * max(totals):
        return []
    return [
        f"{game}: scores are training games of a tenth of each run's own steps, {min(totals):,} to "
        f"{max(totals):,}, which do not compare: no verdict."
    ]


def commas(names: Sequence[str], most: int = 8) -> str:
    """Return names with commas, the first few and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
