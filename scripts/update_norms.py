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

from rl_coordconv.errors import UserError, exit_on_user_error, script_needs

with script_needs("report"):
    from rich.progress import track

    from rl_coordconv.cli import gather_list, parse_dataclass
    from rl_coordconv.compare.matrix import load_comparison
    from rl_coordconv.compare.update_norms import draw, measure, write_norms
    from rl_coordconv.config import RunConfig


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


@exit_on_user_error
def main(args: Sequence[str]) -> None:
    """Train each arm for some steps, then draw."""
    config = parse_dataclass(UpdateNormsConfig, gather_list(args, "--configs"), prog="update_norms.py")
    if not config.configs:
        draw(config.output)
        return
    if config.steps < 1:
        raise UserError(f"steps is {config.steps}: it must be 1 or more")
    arms: dict[tuple[str, str | None], RunConfig] = {}
    for path in config.configs:
        comparison = load_comparison(path)
        for job in comparison.jobs:
            arms.setdefault((comparison.folder.name, job.arm), job)
    norms = [norm for arm in track(arms.values(), "arms") for norm in measure(arm, config.steps)]
    write_norms(config.output, norms)
    print((config.output / "update_norms.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
