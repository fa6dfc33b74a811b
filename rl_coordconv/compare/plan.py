"""What a comparison can show and what it will cost, told before its first run."""

from __future__ import annotations

from collections.abc import Sequence

from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.jobs import Job
from rl_coordconv.compare.power import detectable
from rl_coordconv.compare.rundata import RunData
from rl_coordconv.compare.statistics import INTERVAL_RUNS, LEVEL, RANK_RUNS


def plan(
    comparison: Comparison, jobs: Sequence[Job], slots: int | None, known: Sequence[RunData]
) -> list[str]:
    """
    Return what to know before training, a line each.

    :param comparison: What is compared
    :param jobs: Runs still to train
    :param slots: How many run side by side, None where the cluster decides
    :param known: Runs whose speed tells how long others will take
    """
    left = [
        job.config.total_timesteps - job.run.read_progress().steps for job in jobs if not job.run.finished
    ]
    steps, open_runs = sum(left), len(left)
    speeds = [run.progress.steps_per_second for run in known if run.progress.steps_per_second]
    cost = f"{open_runs} runs to train, {steps:,} steps"
    if speeds and slots:
        hours = steps / (sum(speeds) / len(speeds)) / min(slots, max(open_runs, 1)) / 3600
        cost += f": about {hours:,.1f} hours, {slots} side by side as fast as those recorded"
    return [cost, *_power(comparison)]


def _power(comparison: Comparison) -> list[str]:
    n, arms = len(comparison.seeds), len(comparison.arms) - 1
    questions = arms * (len(comparison.games) + (len(comparison.games) > 1))
    if not questions:
        return ["one arm: scores and curves, nothing to compare them with"]
    if n < INTERVAL_RUNS:
        text = f"{n} seeds show how it works, no difference on a game: give {INTERVAL_RUNS + 2} or more"
        return [f"{text} for verdicts"]
    alone, corrected = detectable(n), detectable(n, 1 - (1 - LEVEL) / questions)
    lines = [
        f"{n} seeds show, with 80 % probability, a game's difference of {alone:.1f} standard deviations "
        f"between seeds; {corrected:.1f} if all {questions} questions are answered (by the t-test: with few "
        "seeds the exact test, which a verdict takes too, asks for somewhat more)"
    ]
    if n < RANK_RUNS:
        lines.append(f"{n} seeds give intervals but no verdict on a single game, which takes {RANK_RUNS}")
    return lines
