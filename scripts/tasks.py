"""
The paper's supervised evidence: toy coordinate tasks, a GAN's mode collapse, a digit detector; and how well
the extractors of RL agents, and PPO agents, tell where something is.

python scripts/tasks.py toy classification --split quadrant --seeds 1 2 3
python scripts/tasks.py locate --split quadrant --seeds 1 2 3
python scripts/tasks.py point --split quadrant --seeds 1 2 3
python scripts/tasks.py gan --seeds 1 2 3
python scripts/tasks.py detect --seeds 1 2 3 --digits path/to/mnist
python scripts/tasks.py redraw docs/results/detection.json

On disk afterwards, in the experiment's folder under ``runs/``: ``results.json``, ``figure.png``, and a
TensorBoard run per arm and seed. Started again with the same options (or more seeds), it does what is not
done yet. ``redraw`` needs a ``results.json`` alone: beside it, it draws ``<its name>.png`` and fills in the
table of pages (``*.md``) that have ``<!-- table of <its name>.json -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rl_coordconv.errors import choose, one_line_errors, script_needs

with script_needs("tasks"):
    from rl_coordconv.tasks import EXPERIMENTS, redraw_results, run_task

HELP = ("-h", "--help")


@one_line_errors()
def main(args: Sequence[str]) -> None:
    """Train all arms and seeds of a task, print a table, write the figure; or draw results again."""
    if not args or args[0] in HELP or (args[0] == "redraw" and args[-1] in HELP):
        print(__doc__.strip() + f"\n\nOptions: python scripts/tasks.py {{{','.join(EXPERIMENTS)}}} --help")
        return
    if args[0] == "redraw":
        redraw_results(args[1:])
        return
    task = choose("task", args[0], (*EXPERIMENTS, "redraw"))
    run_task(task, args[1:], f"tasks.py {task}")


if __name__ == "__main__":
    main(sys.argv[1:])
