"""
Show why CoordConv exists: train it and a plain network on the paper's toy coordinate tasks, and draw both.

python scripts/toy.py classification --split quadrant
python scripts/toy.py all --canvas 32 --seeds 1 2 3 --budget 1800

On disk afterwards: ``<output>/<task>/<split>/figure.png``, and beside it for each run ``<arch>/seed<k>/``
with ``result.json`` and TensorBoard curves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rl_coordconv.cli import gather_list, parse_dataclass
from rl_coordconv.errors import exit_on_user_error
from rl_coordconv.tasks.toy.figures import plot_task
from rl_coordconv.tasks.toy.suite import ToyConfig, results_table, run_suite


@exit_on_user_error
def main(args: Sequence[str]) -> None:
    """Train, print the table, draw the figures."""
    config = parse_dataclass(ToyConfig, gather_list(args, "--seeds"), prog="toy.py")
    runs = run_suite(config)
    # A table cut to 80 columns, as where there is no terminal, could not be read.
    Console(width=max(Console().width, 120)).print(results_table(runs))
    for task, split in dict.fromkeys((run.options.task, run.options.split) for run in runs):
        figure = Path(config.output) / task / split / "figure.png"
        plot_task([run for run in runs if (run.options.task, run.options.split) == (task, split)], figure)
        print(f"figure   {figure}")
    print(f"curves   tensorboard --logdir {config.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
