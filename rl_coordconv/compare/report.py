"""
The report of a comparison, from whatever is on disk, finished or not.

On disk, under ``runs/<name>/``::

    report.md      verdicts, tables, links to the figures
    tables.tex     the tables for a paper, if asked for
    report.html    the same in one file, figures inside, to send around
    scores.csv     one row per run
    curves.csv     one row per run and point of its curve
    figures/       PNG files, and SVG or PDF if asked for
    summary/       the TensorBoard page
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import markdown

from rl_coordconv import __version__
from rl_coordconv.compare.analysis import Analysis, analyse
from rl_coordconv.compare.cache import Cache, fingerprint, save
from rl_coordconv.compare.collect import Collected, collect
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.figures import draw_all
from rl_coordconv.compare.tables import SECTIONS, latex, speeds
from rl_coordconv.compare.tensorboard import write_page
from rl_coordconv.compare.tidy import write_csv
from rl_coordconv.compare.wording import bullets, verdict_lines
from rl_coordconv.errors import UserError
from rl_coordconv.files import alone, make_folder, write_text

PAGE_NAME = "report.html"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; margin: 1rem 0; font-size: .85rem; display: block; overflow-x: auto }}
td {{ white-space: nowrap }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: left }}
img {{ max-width: 100% }}
</style></head><body>
{body}
</body></html>
"""

HOW_TO_READ = """## How to read it

* A run's **score** is the mean raw return of its final evaluation on full games (``score: eval``), or of the
  training games that ended in the last tenth of its steps (``score: train``); its curve is the latter before
  each point. All runs of a game are cut to the shortest that takes part.
* **Intervals** are 95 %, each for itself. Within a game: Student's t over seeds from 3 runs on; two runs are
  shown as their range (low to high). Over games: leaving out one run at a time, with Satterthwaite's
  degrees of freedom. Shaded bands of curves are the interval of the mean; thin lines are single runs.
* A **verdict** needs a difference of means (over games: of IQMs) that stays below 5 % after Holm's correction
  for all questions of this report (Welch's test; paired by seed only where that narrows the interval) and an
  exact test below 5 %: on a game Mann-Whitney's, which takes 4 runs of each arm, over games permutations of
  the runs within each game.
* **Human-normalised**: 0 is random play, 1 a professional tester. **IQM** is the mean of the middle half of
  all runs (higher is better), the **optimality gap** how far runs fall short of 1 (lower is better).
* **Probability of improvement**: how likely a run of the arm beats a run of the baseline; 0.5 is a draw.
* **Share of weight norm on coordinates**: how position-dependent a layer chose to be.
* **What coordinates add**: each square is the map that one filter adds to its output, whatever the screen
  shows; red adds, blue subtracts, one scale per arm.
* **Hours and steps per second** are of machines with whatever else they did: they compare arms only where
  these had the same to themselves.
* **Adding seeds** until a verdict appears is not a test at 5 %: looking again after adding seeds makes
  it more. Fix the number before, or take what was added as a comparison of its own.
"""


@dataclass(frozen=True)
class Style:
    """
    What a report has besides Markdown, HTML and PNG.

    :param figures: ``svg`` or ``pdf`` figures, or None
    :param latex: Whether to write ``tables.tex``
    """

    figures: str | None = None
    latex: bool = False


def write_report(comparison: Comparison, data: Collected | None = None, style: Style | None = None) -> Path:
    """
    Write report, figures, tables and TensorBoard page.

    :param comparison: From ``Comparison.load``; the report goes into its folder
    :param data: Its runs, if they are read already
    :param style: What to write besides
    :return: ``report.html``
    :raises UserError: The recorded scores cannot be read, or the report not written
    """
    folder, style = comparison.folder, style or Style()
    make_folder(folder, "output folder")
    with alone(folder):
        data = collect(comparison) if data is None else data
        # A folder of recorded scores is what is read, and stays as it is.
        cached = bool(data.keys) and comparison.results != folder and not data.broken
        mark = fingerprint(data.keys, [comparison, style, __version__]) if cached else ""
        names = (PAGE_NAME, "report.md", "figures", "summary", *(["tables.tex"] if style.latex else []))
        written = [folder / name for name in names]
        if cached and Cache(folder).report == mark and all(path.exists() for path in written):
            return folder / PAGE_NAME
        try:
            page = _write(analyse(comparison, data), style)
            if cached:
                save(folder, data.keys, mark)
        except OSError as error:
            raise UserError(f"report in '{folder}' cannot be written: {error}") from None
        return page


def verdict_text(page: Path) -> str:
    """Return the verdicts of a report as plain lines, to print."""
    text = page.with_suffix(".md").read_text(encoding="utf-8")
    section = text.partition("\n## Verdict\n")[2].partition("\n## ")[0]
    return section.strip().replace("**", "").replace("* ", "")


def _write(analysis: Analysis, style: Style) -> Path:
    comparison, folder = analysis.comparison, analysis.comparison.folder
    figures = draw_all(analysis, folder / "figures", style.figures)
    relative = {title: [path.relative_to(folder) for path in pages] for title, pages in figures.items()}
    text = report_text(analysis, relative)
    write_text(folder / "report.md", text)
    body = markdown.markdown(text, extensions=["tables"])
    for path in (path for pages in figures.values() for path in pages):
        data = base64.b64encode(path.read_bytes()).decode()
        body = body.replace(f'src="{path.relative_to(folder)}"', f'src="data:image/png;base64,{data}"')
    page = folder / PAGE_NAME
    write_text(page, PAGE.format(title=folder.name, body=body))
    if style.latex:
        write_text(folder / "tables.tex", latex(analysis))
    if comparison.results != folder:  # else it is the tables that this report was made from
        write_page(analysis, folder / "summary")
        write_csv(analysis.runs, folder)
    return page


def report_text(analysis: Analysis, figures: Mapping[str, Sequence[Path]]) -> str:
    """
    Return the report in Markdown.

    :param analysis: From ``analyse``
    :param figures: Paths by title, relative to the report, a page each
    """
    comparison = analysis.comparison
    interim = "**Interim**: runs are missing, not finished or not comparable, so there is no verdict."
    parts = [
        f"# {comparison.folder.name}: {', '.join(comparison.arms)}",
        f"{len(comparison.games)} games, {len(comparison.seeds)} seeds, baseline `{comparison.baseline}`.",
        *([interim] if analysis.interim else []),
        "## Verdict",
        bullets(verdict_lines(analysis)),
    ]
    if analysis.notes:
        parts += ["## Read with care", bullets(analysis.notes)]
    for title, make in SECTIONS.items():
        pages = figures.get(title, ())
        if pages:
            parts += [f"## {title}", *(f"![{title}]({path})" for path in pages)]
        if make and (table := make(analysis)).rows:
            parts += [table.markdown]
    parts += ["## Speed", speeds(analysis).markdown, HOW_TO_READ]
    return "\n\n".join(parts).rstrip() + "\n"
