"""
Report on a comparison, finished or not: verdicts, intervals, figures, and the TensorBoard page.

python scripts/report.py runs/smoke
python scripts/report.py docs/results/smoke    # from recorded scores alone, without the runs
python scripts/report.py runs/a --merge runs/b --games Pong --labels "cnn=Nature CNN" --output paper
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rl_coordconv.errors import UserError, one_line_errors, script_needs

with script_needs("report"):
    from rl_coordconv.cli import parse_dataclass
    from rl_coordconv.compare.collect import Collected, collect
    from rl_coordconv.compare.comparison import COMPARISON_YAML, Comparison
    from rl_coordconv.compare.report import Style, verdict_text, write_report
    from rl_coordconv.compare.select import merged, parsed_labels, relabelled, selected


@dataclass
class ReportConfig:
    """Report on a comparison.

    Args:
        folder: runs/<name>, or a folder of recorded scores
        merge: Other such folders to join to it
        games: Games to report on (null: all)
        arms: Arms to report on, as they are called after a merge (null: all)
        labels: Other names for arms, e.g. "cnn=Nature CNN"
        output: Where the report goes (null: into the folder); needed with the options above
        figures: svg or pdf figures for a paper, beside PNG (null: none)
        latex: Write the tables as tables.tex too
    """

    folder: Path
    merge: list[Path] = field(default_factory=list)
    games: list[str] | None = None
    arms: list[str] | None = None
    labels: list[str] = field(default_factory=list)
    output: Path | None = None
    figures: Literal["svg", "pdf"] | None = None
    latex: bool = False


@one_line_errors()
def main(args: Sequence[str]) -> None:
    """Write the report and say where it is."""
    config = parse_dataclass(ReportConfig, args, prog="report.py")
    parts = [value for value in (config.games, config.arms) if value is not None]
    if (config.merge or config.labels or parts) and config.output is None:
        raise UserError("a report on a part, or on several, needs a folder of its own: give --output")
    if config.output is not None and (config.output / COMPARISON_YAML).exists():
        raise UserError(f"'{config.output}' holds a comparison of its own: give --output another folder")
    comparison, data = merged([load(folder) for folder in (config.folder, *config.merge)])
    comparison, data = selected((comparison, data), config.games, config.arms)
    comparison, data = relabelled((comparison, data), parsed_labels(config.labels, comparison.arms))
    if config.output is not None:
        comparison = dataclasses.replace(comparison, folder=config.output)
    page = write_report(comparison, data, Style(config.figures, config.latex))
    print(f"{verdict_text(page)}\nreport   {page}")
    if (comparison.folder / "summary").is_dir():
        print(f"curves   tensorboard --logdir {comparison.folder}  (see Custom Scalars)")


def load(folder: Path) -> tuple[Comparison, Collected]:
    """Return a comparison and its runs."""
    comparison = Comparison.load(folder)
    return comparison, collect(comparison)


if __name__ == "__main__":
    main(sys.argv[1:])
