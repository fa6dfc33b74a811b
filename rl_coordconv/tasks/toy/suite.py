"""Which toy runs a command asks for, one after another within its budget, and the table of results."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rl_coordconv.config import check_device
from rl_coordconv.errors import UserError, choose
from rl_coordconv.tasks.toy.models import make_model
from rl_coordconv.tasks.toy.not_so_clevr import SPLITS, NotSoClevr
from rl_coordconv.tasks.toy.tasks import TASKS
from rl_coordconv.tasks.toy.training import Run, RunOptions, train_run

ARCHS = ("coordconv", "conv")
SECONDS_PER_RUN = 60.0


@dataclass
class ToyConfig:
    """Train CoordConv and plain networks on the paper's toy coordinate tasks.

    Args:
        task: classification, rendering, regression, or all (every task, both splits)
        arch: coordconv, conv (the plain network) or both
        split: uniform (20 % held out at random) or quadrant (a quarter of the canvas held out); all has both
        canvas: Side of the canvas in pixels
        square: Side of the square in pixels
        seeds: One run each
        width: Width of the plain transposed convolutions
        filter: Filter size of the plain transposed convolutions
        budget: Seconds for all runs together (null: 60 a run); what CoordConv leaves goes to plain networks
        device: auto, cpu, cuda or cuda:N
        output: Folder for curves, results and figures
    """

    task: str
    arch: str = "both"
    split: str = "quadrant"
    canvas: int = 64
    square: int = 9
    seeds: list[int] = field(default_factory=lambda: [1])
    width: int = 2
    filter: int = 3
    budget: float | None = None
    device: str = "auto"
    output: str = "runs/toy"

    def runs(self) -> list[RunOptions]:
        """
        Return the runs asked for, CoordConv's first.

        :raises UserError: A value is not allowed; nothing has been created by then
        """
        choose("task", self.task, (*TASKS, "all"))
        choose("arch", self.arch, (*ARCHS, "both"))
        choose("split", self.split, SPLITS)
        check_device(self.device)
        self._check_numbers()
        NotSoClevr(self.canvas, self.square)
        tasks, splits = (tuple(TASKS), SPLITS) if self.task == "all" else ((self.task,), (self.split,))
        archs = ARCHS if self.arch == "both" else (self.arch,)
        sizes = {"canvas": self.canvas, "square": self.square, "width": self.width, "filter": self.filter}
        runs = [
            RunOptions(task, arch, split, seed, **sizes)
            for arch, task, split, seed in itertools.product(archs, tasks, splits, self.seeds)
        ]
        for run in runs:
            make_model(run.task, run.arch, run.split, self.canvas, self.width, self.filter)
        self._check_output(runs)
        return runs

    def _check_numbers(self) -> None:
        if not self.seeds:
            raise UserError("seeds is empty: give one or more, as in --seeds 1 2 3")
        if min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds are {self.seeds}: they must be different and 0 or more")
        if self.width < 1:
            raise UserError(f"width is {self.width}: it must be 1 or more")
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise UserError(f"budget is {self.budget}: it must be more than 0 seconds")

    def _check_output(self, runs: Sequence[RunOptions]) -> None:
        output = Path(self.output)
        above = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise UserError(f"output folder '{output}' cannot be made: '{above}' is not a writable folder")
        for run in runs:
            if (output / run.folder).exists():
                raise UserError(f"'{output / run.folder}' holds another run: choose another --output")


def run_suite(config: ToyConfig) -> list[Run]:
    """
    Train what is asked for; every run may use an equal share of the time that is left when it starts.

    :param config: What to train
    :return: The runs, all on disk
    :raises UserError: The config cannot be run; nothing has been created by then
    """
    waiting = config.runs()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device != "auto":
        device = torch.device(config.device)
    end = time.monotonic() + (config.budget or SECONDS_PER_RUN * len(waiting))
    done: list[Run] = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[scores]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        for number, options in enumerate(waiting):
            # A run that finds nothing left still makes one update and is scored: the table has no holes.
            share = max((end - time.monotonic()) / (len(waiting) - number), 1e-3)
            row = bar.add_task(str(options.folder), total=1.0, scores="")

            def show(part: float, scores: str, row=row) -> None:  # type: ignore[no-untyped-def]
                bar.update(row, completed=part, scores=scores)

            run = train_run(
                dataclasses.replace(options, budget=round(share, 3)), Path(config.output), device, show
            )
            done.append(run)
            if not console.is_terminal:
                print(f"{options.folder}: {summary(run)}", file=sys.stderr, flush=True)
    return done


def summary(run: Run) -> str:
    """Return a run's scores in a few words."""
    best = run.best
    return f"train {best.train_score:.4g}, test {best.test_score:.4g}, best after {best.seconds:.1f} s"


def results_table(runs: Sequence[Run]) -> Table:
    """
    Return means over seeds: parameters, scores, seconds to the best test score.

    ``x size`` and ``x time`` say how many times CoordConv's parameters and seconds a plain network took.

    :param runs: Of one suite
    """
    seeds = len({run.options.seed for run in runs})
    title = f"Means of {seeds} seeds; of each run the evaluation with the best test score"
    table = Table(title=title, box=box.SIMPLE)
    columns = ("task", "split", "arch", "parameters", "train", "test", "seconds", "x size", "x time")
    for name in columns:
        table.add_column(name, justify="left" if name in ("task", "split", "arch") else "right")
    groups: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in runs:
        options = run.options
        groups.setdefault((options.task, options.split), {}).setdefault(options.arch, []).append(run)
    for (task, split), archs in groups.items():
        for arch, members in archs.items():
            table.add_row(task, split, arch, *_cells(members, archs.get("coordconv")))
        table.add_section()
    return table


def _cells(members: Sequence[Run], coordconv: Sequence[Run] | None) -> list[str]:
    name = TASKS[members[0].options.task].score_name
    seconds, parameters = mean(run.best.seconds for run in members), members[0].parameters
    ratios = ["", ""]
    if coordconv is not None and coordconv is not members:
        times = seconds / mean(run.best.seconds for run in coordconv)
        ratios = [f"{parameters / coordconv[0].parameters:.1f}", f"{times:.1f}"]
    scores = [mean(run.best.train_score for run in members), mean(run.best.test_score for run in members)]
    texts = [f"{100 * score:.1f} %" if name == "accuracy" else f"{score:.3f}" for score in scores]
    unit = {"accuracy": "", "IOU": " IOU", "distance in pixels": " px"}[name]
    return [f"{parameters:,}", *(text + unit for text in texts), f"{seconds:.1f}", *ratios]
