"""The tables of a report, for Markdown and for LaTeX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from rl_coordconv.compare.aggregation import iqm
from rl_coordconv.compare.analysis import Analysis
from rl_coordconv.compare.games import ArmOnGame, GameResult
from rl_coordconv.compare.wording import number
from rl_coordconv.markdown import markdown_table
from rl_coordconv.runs.published import RL_ZOO

TEX_SPECIAL = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#"}


@dataclass(frozen=True)
class Table:
    """
    A table.

    :param caption: What it shows
    :param columns: Their names
    :param rows: Their cells
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]

    @property
    def markdown(self) -> str:
        """The table below its caption."""
        return f"{self.caption}\n\n{markdown_table(self.columns, self.rows)}"

    @property
    def latex(self) -> str:
        """The same, to paste into a paper (``booktabs``)."""
        rows = [" & ".join(map(_tex, row)) + r" \\" for row in [self.columns, *self.rows]]
        lines = [r"\begin{table}", rf"\caption{{{_tex(self.caption)}}}"]
        lines += [rf"\begin{{tabular}}{{{'l' * len(self.columns)}}}", r"\toprule", rows[0], r"\midrule"]
        return "\n".join([*lines, *rows[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _tex(text: str) -> str:
    return "".join(TEX_SPECIAL.get(letter, letter) for letter in text)


def latex(analysis: Analysis) -> str:
    """Return all tables of a report in LaTeX."""
    made = [make(analysis) for make in SECTIONS.values() if make]
    return "\n\n".join(table.latex for table in made if table.rows) + "\n"


def algorithms(analysis: Analysis) -> list[str]:
    """Return the algorithms of the arms for which RL Zoo has published scores."""
    used = dict.fromkeys(str(options.get("algo")) for options in analysis.comparison.options.values())
    return [algo for algo in used if algo in RL_ZOO]


def arm_speeds(analysis: Analysis) -> dict[str, float]:
    """Return each arm's median steps per second, 0 where it is not known."""
    known: dict[str, list[float]] = {arm: [] for arm in analysis.comparison.arms}
    for run in analysis.runs:
        if run.progress.steps_per_second:
            known[run.arm].append(run.progress.steps_per_second)
    return {arm: median(speeds or [0.0]) for arm, speeds in known.items()}


def final_returns(analysis: Analysis) -> Table:
    """
    Return the scores: mean with interval, median, IQM, and where runs make two groups how many took off.
    """
    zoo = algorithms(analysis)
    rows = [
        [
            result.game,
            f"{round(result.grid[-1]):,}",
            result.score,
            arm,
            *_scores(result, result.arms[arm]),
            *(f"{RL_ZOO[algo].get(result.game, np.nan):,.1f}".replace("nan", "-") for algo in zoo),
        ]
        for result in analysis.games
        for arm in analysis.comparison.arms
        if arm in result.arms
    ]
    columns = ["game", "steps", "score", "arm", "mean", "median", "IQM", "took off", "runs"]
    published = [f"RL Zoo {algo}, 10 M steps" for algo in zoo]
    return Table("Final raw return:", [*columns, *published], rows)


def _scores(result: GameResult, ours: ArmOnGame) -> list[str]:
    values = ours.values
    middle = iqm(values, np.full((1, len(values)), 1 / len(values)))[0]
    took_off = "" if result.took_off is None else f"{int(np.sum(values > result.took_off))}"
    return [number(ours.final, 1), f"{np.median(values):,.1f}", f"{middle:,.1f}", took_off, f"{len(values)}"]


def improvements(analysis: Analysis) -> Table:
    """Return every arm against the baseline."""
    rows = [
        [
            game,
            arm,
            number(versus.difference, 1),
            number(versus.improvement, 2),
            f"{versus.rank_p_value:.3f}",
            versus.verdict.outcome,
        ]
        for game, by_arm in analysis.versus.items()
        for arm, versus in by_arm.items()
    ]
    rows += [
        [
            f"{len(over.games)} games",
            arm,
            f"{number(over.difference, 3)} (IQM)",
            number(over.improvement, 2),
            "",
            over.verdict.outcome,
        ]
        for arm, over in analysis.versus_overall.items()
    ]
    columns = ["game", "arm", "raw return minus baseline's", "probability of improvement", "Mann-Whitney p"]
    return Table("Against the baseline:", [*columns, "verdict"], rows)


def aggregates(analysis: Analysis) -> Table:
    """Return the human-normalised aggregates of every arm."""
    names = ["IQM", "mean", "median", "optimality gap"]
    rows = [
        [arm, f"{len(ours.games)}", *(number(ours.aggregates[name], 3) for name in names)]
        for arm, ours in analysis.overall.items()
    ]
    return Table("Human-normalised, every game with equal weight:", ["arm", "games", *names], rows)


def speeds(analysis: Analysis) -> Table:
    """Return the median speed of every arm's runs."""
    rows = [[arm, f"{speed:,.0f}" if speed else "-"] for arm, speed in arm_speeds(analysis).items()]
    caption = "Median of the runs' own steps per second, as many side by side as there were."
    return Table(caption, ["arm", "steps/s"], rows)


# What a report shows, in this order: figures by title, and the table below them.
SECTIONS: dict[str, Callable[[Analysis], Table] | None] = {
    "Learning curves": final_returns,
    "Learning curves over time": None,
    "Probability of improvement": improvements,
    "Human-normalised scores": aggregates,
    "Human-normalised IQM over steps": None,
    "Performance profile": None,
    "Use of coordinates": None,
    "What coordinates add": None,
}
