"""
Report on a comparison, finished or not: verdicts, intervals, figures, and the TensorBoard page.

python scripts/report.py runs/smoke
python scripts/report.py docs/results/smoke    # from recorded scores alone, without the runs
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rl_coordconv.errors import exit_on_user_error, script_needs

with script_needs("report"):
    from rl_coordconv.cli import parse_dataclass
    from rl_coordconv.compare.comparison import Comparison
    from rl_coordconv.compare.report import write_report


@dataclass
class ReportConfig:
    """Report on a comparison.

    Args:
        folder: runs/<name>, or a folder of recorded scores
    """

    folder: Path


@exit_on_user_error
def main(args: Sequence[str]) -> None:
    """Write the report and say where it is."""
    config = parse_dataclass(ReportConfig, args, prog="report.py")
    page = write_report(Comparison.load(config.folder))
    print(f"report   {page}")
    if (config.folder / "summary").is_dir():
        print(f"curves   tensorboard --logdir {config.folder}  (see Custom Scalars)")


if __name__ == "__main__":
    main(sys.argv[1:])
