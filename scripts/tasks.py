"""
The paper's other evidence: does CoordConv help a GAN, and a digit detector?

python scripts/tasks.py gan --seeds 3
python scripts/tasks.py detect --seeds 3 --digits path/to/mnist

On disk afterwards: ``runs/gan/`` or ``runs/detection/`` with ``results.json``, a figure, and a TensorBoard
run per arm and seed. Started again with the same options (or more seeds), it does what is not done yet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rl_coordconv.cli import parse_dataclass
from rl_coordconv.errors import UserError, choose, exit_on_user_error

TASKS = ("gan", "detect")


@exit_on_user_error
def main(args: Sequence[str]) -> None:
    """Train all arms and seeds of a task, print a table, write the figure."""
    if not args or args[0] in ("-h", "--help"):
        print(__doc__.strip() + f"\n\nOptions: python scripts/tasks.py {{{','.join(TASKS)}}} --help")
        return
    task = choose("task", args[0], TASKS)
    try:
        folder = run(task, args[1:])
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'rl-coordconv[tasks]'") from None
    except KeyboardInterrupt:
        print("stopped: the same command goes on with the runs that are not finished", file=sys.stderr)
        raise SystemExit(130) from None
    figure = folder / f"{folder.name}.png"
    print(f"wrote {folder / 'results.json'} and {figure}\n  tensorboard --logdir {folder}")


def run(task: str, args: Sequence[str]) -> Path:
    """Train; the imports are here because they need the optional packages of ``rl-coordconv[tasks]``."""
    if task == "gan":
        from rl_coordconv.tasks.gan.training import GanConfig, run_gan

        return run_gan(parse_dataclass(GanConfig, args, "tasks.py gan"))
    from rl_coordconv.tasks.detection.training import DetectionConfig, run_detection

    return run_detection(parse_dataclass(DetectionConfig, args, "tasks.py detect"))


if __name__ == "__main__":
    main(sys.argv[1:])
