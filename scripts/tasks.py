"""
The paper's other evidence: does CoordConv help a GAN, and a digit detector?

python scripts/tasks.py gan --seeds 3
python scripts/tasks.py detect --seeds 3 --digits path/to/mnist

On disk afterwards: ``runs/gan/`` or ``runs/detection/`` with ``results.json``, a figure, and a TensorBoard
run per arm and seed. Started again with the same options, it continues what was not finished.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rl_coordconv.cli import parse_dataclass
from rl_coordconv.errors import choose, exit_on_user_error
from rl_coordconv.tasks.detection_training import DetectionConfig, run_detection
from rl_coordconv.tasks.gan_training import GanConfig, run_gan

TASKS = ("gan", "detect")


@exit_on_user_error
def main(args: Sequence[str]) -> None:
    """Train all arms and seeds of a task, print a table, write the figure."""
    if not args or args[0] in ("-h", "--help"):
        print(__doc__.strip() + f"\n\nOptions: python scripts/tasks.py {{{','.join(TASKS)}}} --help")
        return
    task = choose("task", args[0], TASKS)
    prog = f"tasks.py {task}"
    try:
        if task == "gan":
            folder = run_gan(parse_dataclass(GanConfig, args[1:], prog))
        else:
            folder = run_detection(parse_dataclass(DetectionConfig, args[1:], prog))
    except KeyboardInterrupt:
        print("stopped: the same command goes on with the runs that are not finished", file=sys.stderr)
        raise SystemExit(130) from None
    figure = folder / f"{folder.name}.png"
    print(f"wrote {folder / 'results.json'} and {figure}\n  tensorboard --logdir {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
