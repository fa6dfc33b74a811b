"""How a report says numbers and verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rl_coordconv.compare import power, statistics
from rl_coordconv.compare.analysis import Analysis
from rl_coordconv.compare.games import Versus
from rl_coordconv.compare.statistics import Estimate
from rl_coordconv.compare.verdicts import Verdict

# More lines than that are a table.
MOST_LINES = 20


def verdict_lines(analysis: Analysis) -> list[str]:
    """
    Return the overall verdicts, the count, then one plain line per game and arm; of many, those decided.
    """
    lines = []
    for arm, over in analysis.versus_overall.items():
        reason = (
            f"IQM {number(over.difference, 3, signed=True)} human-normalised over {len(over.games)} games, "
            f"probability of improvement {number(over.improvement, 2)}{_corrected(over.verdict)}"
        )
        lines.append(f"**All games**: {_answer(arm, over.verdict, analysis)} ({reason})")
    if analysis.verdicts and not analysis.interim:
        counts = Counter(verdict.outcome for verdict in analysis.verdicts)
        lines.append(
            f"{counts['better']} better, {counts['worse']} worse, {counts['undecided']} undecided of "
            f"{len(analysis.verdicts)} questions, corrected for their number (Holm)"
        )
    single = [(game, arm, versus) for game, arms in analysis.versus.items() for arm, versus in arms.items()]
    if len(single) > MOST_LINES:
        single = [line for line in single if line[2].verdict.outcome != "undecided"]
        if analysis.interim:
            lines.append("single games are in the table below")
        else:
            lines[-1] += "; those undecided on a game are in the table below"
    for game, arm, versus in single:
        reason = _reason(versus, analysis.interim, len(analysis.verdicts))
        lines.append(f"**{game}**: {_answer(arm, versus.verdict, analysis)} ({reason})")
    return lines or [
        "nothing to compare yet: no game has runs of two arms that are far enough (report.md says why)"
    ]


def _answer(arm: str, verdict: Verdict, analysis: Analysis) -> str:
    baseline = analysis.comparison.baseline
    if analysis.interim:
        return f"{arm} against {baseline}: no verdict yet"
    if verdict.outcome == "undecided":
        return f"{arm} is not distinguishable from {baseline}"
    return f"{arm} is **{verdict.outcome}** than {baseline}"


def _corrected(verdict: Verdict) -> str:
    return "" if verdict.corrected is None else f", p {_p(verdict.corrected)} corrected"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _reason(versus: Versus, interim: bool, questions: int) -> str:
    found = versus.difference
    reason = f"{number(found, 1, signed=True)} raw points, {versus.seeds}"
    if versus.fewest < statistics.INTERVAL_RUNS:
        return f"{reason}: fewer than three runs of each arm give no interval"
    if found.p_value is None:
        return f"{reason}: scores without any spread give no interval"
    reason += f"{_corrected(versus.verdict)}, Mann-Whitney p {_p(versus.rank_p_value)}"
    if versus.fewest < statistics.RANK_RUNS:
        return f"{reason}; a verdict takes {statistics.RANK_RUNS} runs of each arm"
    if versus.verdict.outcome == "undecided" and not interim:
        return reason + _more_seeds(versus, questions)
    return reason


def _more_seeds(versus: Versus, questions: int) -> str:
    """Say how many more seeds would show the difference among all questions, as it looks or may be."""
    found = versus.difference
    assert found.low is not None
    assert found.high is not None
    most = max(abs(found.low), abs(found.high)) / versus.spread
    level = 1 - (1 - statistics.LEVEL) / questions
    least = power.seeds_needed(most, level, versus.paired)
    looks = power.seeds_needed(found.value / versus.spread, level, versus.paired) if found.value else None
    if looks is not None and looks <= versus.fewest:  # the exact test was undecided, which this is not about
        return ""
    low = "over 1,000" if least is None else f"{least}"
    high = "over 1,000" if looks is None else f"{looks}"
    ends = f"{low} seeds per arm if the difference is at its far end, {high} if it is as seen"
    if least is not None and least <= versus.fewest:
        ends = f"{high} seeds per arm if the difference is as seen"
    return f"; to see it takes {ends}"


def number(estimate: Estimate, digits: int, signed: bool = False) -> str:
    """Return a value with its interval in brackets, or its range in words."""
    sign = "+" if signed else ""

    def said(value: float) -> str:
        return f"{value:{sign},.{digits}f}"

    if estimate.low is None or estimate.high is None:
        return said(estimate.value)
    if estimate.is_range:
        return f"{said(estimate.value)} ({said(estimate.low)} to {said(estimate.high)})"
    return f"{said(estimate.value)} [{said(estimate.low)}, {said(estimate.high)}]"


def bullets(lines: Iterable[str]) -> str:
    """Return lines as a Markdown list."""
    return "\n".join(f"* {line}" for line in lines)
