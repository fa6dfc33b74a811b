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

from rl_coordconv.errors import UserError, one_line_errors, script_needs

with script_needs("report"):
    from rich.progress import track

    from rl_coordconv.cli import parse_dataclass
    from rl_coordconv.compare.matrix import load_comparison
    from rl_coordconv.compare.update_norms import draw, measure, write_norms
    from rl_coordconv.config import RunConfig
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
    norms = [norm for arm in arms for norm in measure(arm, config.steps)]
    write_norms(config.output, norms)
    print((config.output / "update_norms.md").read_text(encoding="utf-8"), end="")


def first_runs(files: Sequence[Path]) -> list[RunConfig]:
    """
    Return the first run of every arm of some comparisons.

    :raises UserError: Two of them have an arm of one name and algorithm that is trained in two ways
    """
    arms: dict[tuple[str, str], tuple[RunConfig, object]] = {}
    for file in files:
        comparison = load_comparison(file)
        for arm in comparison.arms:
            if arm in comparison.foreign:
                continue
            run = next(run for run in comparison.runs if run.arm == arm)
            trained = (run.game, run.seed, comparison.options[arm])
            if arms.setdefault((run.algo, arm), (run, trained))[1] != trained:
                raise UserError(
                    f"'{file}': {run.algo} arm '{arm}' is trained with other options, game or seed than the "
                    "arm of that name in another comparison: rename one"
                )
    return [run for run, _ in arms.values()]


if __name__ == "__main__":
    main(sys.argv[1:])
