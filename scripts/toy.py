"""
Show why CoordConv exists: train it and a plain network on the paper's toy coordinate tasks, and draw both.

python scripts/toy.py classification --split quadrant
python scripts/toy.py all --canvas 32 --seeds 1 2 3 --budget 1800

The short way to ``scripts/tasks.py toy``. On disk afterwards, under ``runs/<name>/<task>/<split>/``:
``figure.png``, ``results.json``, and for each run ``<arch>/seed<k>/`` with ``result.json`` and TensorBoard
curves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rl_coordconv.errors import one_line_errors, script_needs

with script_needs("tasks"):
    from rl_coordconv.tasks import run_task


@one_line_errors()
def main(args: Sequence[str]) -> None:
    """Train, print the tables, draw the figures."""
    run_task("toy", args, "toy.py")


if __name__ == "__main__":
    main(sys.argv[1:])
