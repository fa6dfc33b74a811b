"""
How far one optimizer step moves the first layer's output: by its image, its coordinates, its bias.

python scripts/update_norms.py norms --configs configs/compare/coord_start.yaml
python scripts/update_norms.py docs/results/update_norms    # figure and table anew, from the CSV
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rl_coordconv.errors import one_line_errors, script_needs

with script_needs("report"):
    from rich.progress import track

    from rl_coordconv.cli import parse_dataclass
    from rl_coordconv.compare.update_norms import Norm, draw, first_runs, measure, write_norms
    from rl_coordconv.files import check_can_hold_files


@dataclass
class UpdateNormsConfig:
    """Measure how far optimizer steps move what image, coordinates and bias add.

    Args:
        output: Folder for update_norms.csv, .md and .png
        configs: Comparisons whose arms are trained, on their first game and seed (none: draw what is there)
        steps: Environment steps to train each arm
    """

    output: Path
    configs: list[Path] = field(default_factory=list)
    steps: int = 20_000


@one_line_errors()
def main(args: Sequence[str]) -> None:
    """Train each arm for some steps, then draw."""
    config = parse_dataclass(UpdateNormsConfig, args, prog="update_norms.py")
    check_can_hold_files(config.output, "output folder")
    if not config.configs:
        draw(config.output)
        return
    arms = track(first_runs(config.configs), "arms")
    norms: list[Norm] = []
    for arm in arms:
        norms += measure(arm, config.steps)
        write_norms(config.output, norms)  # after each arm: what is measured is not lost
    print((config.output / "update_norms.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
