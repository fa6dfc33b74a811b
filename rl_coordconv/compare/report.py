"""
The report of a comparison, from whatever is on disk, finished or not.

On disk, under ``runs/<name>/``::

    report.md      verdicts, tables, links to the figures
    report.html    the same in one file, figures inside, to send around
    scores.csv     one row per run
    curves.csv     one row per run and point of its curve
    figures/       the PNG files
    summary/       the TensorBoard page
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import markdown

from rl_coordconv.compare.analysis import Analysis, analyse
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.figures import draw_all
from rl_coordconv.compare.statistics import Estimate
from rl_coordconv.compare.tensorboard import write_page
from rl_coordconv.compare.tidy import write_csv
from rl_coordconv.runs.folder import write_text

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left }}
img {{ max-width: 100% }}
</style></head><body>
{body}
</body></html>
"""

HOW_TO_READ = """## How to read it

* A run's **score** is the mean raw return of its final evaluation on full games (``score: eval``), or of the
  training games that ended in the last tenth of its steps (``score: train``); its curve is the latter before
  each point. All runs of a game are cut to the shortest that takes part.
* **Intervals** are 95 %. Within a game: Student's t over seeds, of paired differences where seeds are
  paired. Over games: rliable's stratified bootstrap, widened for few seeds. Shaded bands of curves are the
  interval of the mean; with two seeds, the lower and the higher one.
* **Human-normalised**: 0 is random play, 1 a professional tester. **IQM** is the mean of the middle half of
  all runs (higher is better), the **optimality gap** how far runs fall short of 1 (lower is better).
* **Probability of improvement**: how likely a run of the arm beats a run of the baseline; 0.5 is a draw.
* **Share of weight norm on coordinates**: how position-dependent a layer chose to be.
* **What coordinates add**: each square is the map that one filter adds to its output, whatever the screen
  shows; red adds, blue subtracts, one scale per arm.
* With several verdicts at a level of 95 %, expect one in twenty to be wrong by chance alone.
"""


def write_report(comparison: Comparison) -> Path:
    """
    Write report, figures and TensorBoard page.

    :param comparison: From ``Comparison.load``
    :return: ``report.html``
    :raises UserError: A run trained elsewhere cannot be read
    """
    folder = comparison.folder
    analysis = analyse(comparison)
    figures = draw_all(analysis, folder / "figures")
    text = report_text(analysis, {title: path.relative_to(folder) for title, path in figures.items()})
    write_text(folder / "report.md", text)
    body = markdown.markdown(text, extensions=["tables"])
    for path in figures.values():
        data = base64.b64encode(path.read_bytes()).decode()
        body = body.replace(f'src="{path.relative_to(folder)}"', f'src="data:image/png;base64,{data}"')
    page = folder / "report.html"
    write_text(page, PAGE.format(title=folder.name, body=body))
    if comparison.results != folder:  # else it is the tables that this report was made from
        write_page(analysis, folder / "summary")
        write_csv(analysis.runs, folder)
    return page


def report_text(analysis: Analysis, figures: dict[str, Path]) -> str:
    """
    Return the report in Markdown.

    :param analysis: From ``analyse``
    :param figures: Paths by title, relative to the report
    """
    comparison = analysis.comparison
    parts = [
        f"# {comparison.folder.name}: {' and '.join(comparison.arms)}",
        f"{len(comparison.games)} games, {len(comparison.seeds)} seeds, baseline `{comparison.baseline}`.",
        "## Verdict",
        _listed(verdicts(analysis)),
    ]
    if analysis.notes:
        parts += ["## Read with care", _listed(analysis.notes)]
    sections = {
        "Learning curves": _final_returns(analysis),
        "Probability of improvement": _improvements(analysis),
        "Human-normalised scores": _aggregates(analysis),
        "Performance profile": "",
        "Use of coordinates": "",
        "What coordinates add": "",
    }
    for title, table in sections.items():
        if title in figures:
            parts += [f"## {title}", f"![{title}]({figures[title]})"] + ([table] if table else [])
    parts += ["## Speed", _speeds(analysis), HOW_TO_READ]
    return "\n\n".join(parts).rstrip() + "\n"


def verdicts(analysis: Analysis) -> list[str]:
    """Return one plain line per game and arm, and one for all games."""
    baseline = analysis.comparison.baseline
    lines = []
    for result in analysis.games:
        for arm, versus in result.versus.items():
            relation = "from" if versus.outcome == "not distinguishable" else "than"
            lines.append(
                f"**{result.game}**: {arm} is **{versus.outcome}** {relation} {baseline} ({versus.reason})"
            )
    if analysis.overall is not None:
        for arm, estimate in analysis.overall.improvement.items():
            lines.append(
                f"**All games**: {arm} {_overall_outcome(estimate)} {baseline} ({_chance(estimate)})"
            )
    return lines or ["nothing to compare yet: no game has a finished run of two arms"]


def _overall_outcome(estimate: Estimate) -> str:
    if estimate.low is not None and estimate.low > 0.5:
        return "is **better** than"
    if estimate.high is not None and estimate.high < 0.5:
        return "is **worse** than"
    return "is **not distinguishable** from"


def _chance(estimate: Estimate) -> str:
    return f"probability of improvement {_number(estimate, 2)}"


def _final_returns(analysis: Analysis) -> str:
    arms = analysis.comparison.arms
    rows = [
        [result.game, f"{round(result.grid[-1]):,}", result.score]
        + [
            f"{_number(ours.final, 1)} (n={len(ours.scores)})" if (ours := result.arms.get(arm)) else "-"
            for arm in arms
        ]
        for result in analysis.games
    ]
    return "Final raw return:\n\n" + _table(["game", "steps", "score", *arms], rows)


def _improvements(analysis: Analysis) -> str:
    rows = [
        [result.game, arm, _number(versus.difference, 1), _number(versus.improvement, 2)]
        for result in analysis.games
        for arm, versus in result.versus.items()
    ]
    if analysis.overall is not None:
        rows += [["all", arm, "", _number(value, 2)] for arm, value in analysis.overall.improvement.items()]
    return _table(["game", "arm", "raw return minus baseline's", "probability of improvement"], rows)


def _aggregates(analysis: Analysis) -> str:
    if analysis.overall is None:
        return ""
    rows = [
        [arm, _number(found["iqm"], 3), _number(found["optimality_gap"], 3)]
        for arm, found in analysis.overall.aggregates.items()
    ]
    n_games, seeds = len(analysis.overall.games), analysis.overall.seeds
    text = f"Over {n_games} games and the {len(seeds)} seeds that every arm has."
    return f"{text}\n\n{_table(['arm', 'IQM', 'optimality gap'], rows)}"


def _speeds(analysis: Analysis) -> str:
    rows = []
    for arm in analysis.comparison.arms:
        speeds = [run.progress.steps_per_second for run in analysis.runs if run.arm == arm]
        speeds = [speed for speed in speeds if speed]
        rows.append([arm, f"{median(speeds):,.0f}" if speeds else "-"])
    return "Median of the runs' own steps per second, as many side by side as there were.\n\n" + _table(
        ["arm", "steps/s"], rows
    )


def _number(estimate: Estimate, digits: int) -> str:
    value = f"{estimate.value:,.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low:,.{digits}f}, {estimate.high:,.{digits}f}]"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)
