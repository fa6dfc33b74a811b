"""
The paper's supervised evidence (Liu et al. 2018, arXiv:1807.03247), one folder per task.

``EXPERIMENTS`` says which options class each task has; it is imported only when asked for, since the tasks
need the packages of the extra ``tasks``.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rl_coordconv.cli import parse_dataclass
from rl_coordconv.errors import UserError, needs

EXPERIMENTS = {
    "toy": "rl_coordconv.tasks.toy.config:ToyConfig",
    "gan": "rl_coordconv.tasks.gan.training:GanConfig",
    "locate": "rl_coordconv.tasks.locate.supervised:LocateConfig",
    "point": "rl_coordconv.tasks.locate.pointing:PointConfig",
    "detect": "rl_coordconv.tasks.detection.training:DetectionConfig",
}


def run_task(name: str, args: Sequence[str], prog: str) -> list[Path]:
    """
    Train what a command line asks for.

    :param name: One of :data:`EXPERIMENTS`
    :param args: Its options
    :param prog: The command, for ``--help``
    :return: Folders of the experiments
    :raises UserError: The options cannot be run, or a package is missing; nothing has been written
    """
    try:
        with needs("tasks"):
            folders: list[Path] = parse_dataclass(pkgutil.resolve_name(EXPERIMENTS[name]), args, prog).run()
    except KeyboardInterrupt:
        print("stopped: the same command goes on with the runs that are not finished", file=sys.stderr)
        raise SystemExit(130) from None
    for folder in folders:
        print(f"wrote {folder / 'results.json'} and {folder / 'figure.png'}")
    print(f"  tensorboard --logdir {folders[0] if len(folders) == 1 else folders[0].parents[1]}")
    return folders


def redraw_results(files: Sequence[str]) -> None:
    """
    Draw results again: a picture beside each file, and its table where a page beside it asks for it.

    :param files: Each the ``results.json`` of an experiment, by whatever name
    :raises UserError: There is none, or one is no such file
    """
    if not files:
        raise UserError("redraw needs files: results.json of one experiment or more")
    with needs("tasks"):
        from rl_coordconv.tasks.redraw import redraw
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"'{file}' is no file: redraw takes results.json of one experiment or more")
    for file in files:
        for written in redraw(Path(file)):
            print(f"wrote {written}")
