"""What can be asked of the toy tasks: one experiment per task and split."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from rl_coordconv.errors import choose
from rl_coordconv.files import read_json
from rl_coordconv.tasks.experiment import Experiment, Outcome, Run
from rl_coordconv.tasks.figures import save
from rl_coordconv.tasks.toy.figures import SHOWN, toy_figure
from rl_coordconv.tasks.toy.models import ARCHS, make_model
from rl_coordconv.tasks.toy.not_so_clevr import SPLITS, NotSoClevr
from rl_coordconv.tasks.toy.tasks import TASKS
from rl_coordconv.tasks.toy.training import RECIPES, Recipe, Training

BOTH = ("coordconv", "conv")
SECONDS_PER_RUN = 60.0


@dataclass(kw_only=True)
class ToyConfig(Experiment):
    """Train CoordConv and plain networks on the paper's toy coordinate tasks.

    Args:
        task: classification, rendering, regression, or all (every task, both splits)
        arch: coordconv, conv (the plain network), both, or all: coordconv-blind (the first without
            coordinates) and conv-coords (the second with coordinates) as well
        split: uniform (20 % held out at random) or quadrant (a quarter of the canvas held out); all has both
        canvas: Side of the canvas in pixels
        square: Side of the square in pixels
        seeds: One run per arch each
        width: Width of the transposed convolutions
        filter: Filter size of the transposed convolutions
        lr: AdamW's learning rate at the start, which falls to 0 over the updates (null: the recipe's)
        weight_decay: AdamW's (null: the recipe's)
        batch_size: Samples per update (null: the recipe's)
        updates: Most updates of a run (null: the recipe's)
        budget: Seconds after which runs are stopped, all together, shared equally (null: 60 a run)
        device: auto, cpu, cuda or cuda:N
        name: Folder of the experiments, inside of output
        output: Folder for curves, results and figures
    """

    measurements: ClassVar[tuple[str, ...]] = (
        "train_score",
        "test_score",
        "solved",
        "training_seconds",
        "training_cpu_seconds",
        "evaluation_seconds",
        "updates",
        "parameters",
    )
    ratios: ClassVar[tuple[str, ...]] = ("training_seconds", "training_cpu_seconds", "updates", "parameters")
    free: ClassVar[tuple[str, ...]] = (*Experiment.free, "arch")

    task: str = field(kw_only=False)
    arch: str = "both"
    split: str = "quadrant"
    canvas: int = 64
    square: int = 9
    width: int = 2
    filter: int = 3
    lr: float | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    updates: int | None = None
    budget: float | None = None
    name: str = "toy"
    seeds: list[int] = field(default_factory=lambda: [1])

    @property
    def arms(self) -> tuple[str, ...]:
        return {"both": BOTH, "all": tuple(ARCHS)}.get(self.arch, (self.arch,))

    @property
    def title(self) -> str:
        score = TASKS[self.task].score_name
        return f"{self.task}, {self.split} split, {self.canvas} pixels; score: {score}"

    @property
    def folder(self) -> Path:
        """Where the experiment lives: ``<output>/<name>/<task>/<split>``."""
        return super().folder / self.task / self.split

    @property
    def run_seconds(self) -> float:
        """Seconds that one run may take."""
        if self.budget is None:
            return SECONDS_PER_RUN
        kept = read_json(self.folder / "options.json").get("options")
        if isinstance(kept, dict) and kept.get("budget") == self.budget and "run_seconds" in kept:
            return float(kept["run_seconds"])  # further seeds have as long as those before
        return self.budget / (len(self.arms) * len(self.seeds))

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON has them, with a run's seconds: all runs of a folder have as many."""
        return {**super().to_dict(), "run_seconds": self.run_seconds}

    def check(self) -> None:
        """Refuse options that cannot be run, before anything is written."""
        choose("arch", self.arch, (*ARCHS, "both", "all"))
        super().check()
        NotSoClevr(self.canvas, self.square)
        for arm in self.arms:
            self.make_model(arm)

    def make_model(self, arm: str) -> nn.Module:
        """Return a new network of an arm."""
        return make_model(self.task, arm, self.split, self.canvas, self.width, self.filter)

    def facts(self) -> dict[str, Any]:
        return {"score": TASKS[self.task].score_name}

    def recipe(self, arm: str) -> Recipe:
        """Return how an arm is trained: the task's recipe with the options that were given."""
        given = {
            "learning_rate": self.lr,
            "weight_decay": self.weight_decay,
            "batch_size": self.batch_size,
            "updates": self.updates,
        }
        changes: Any = {key: value for key, value in given.items() if value is not None}
        return dataclasses.replace(RECIPES[self.task, ARCHS[arm][0]], **changes)

    def notes(self, results: dict[str, Any]) -> list[str]:
        """Return also which arms had no time for all their updates, so that their scores are no verdict."""
        found = super().notes(results)
        for arm, runs in results["runs"].items():
            most = self.recipe(arm).updates
            cut = [run["updates"] for run in runs.values() if run["updates"] < most and not run["solved"]]
            if cut:
                found.append(
                    f"{arm} was stopped by its {self.run_seconds:,.3g} s at {max(cut):,.0f} of {most:,} "
                    "updates a run, and is not trained to the end: --budget gives more seconds"
                )
        return found

    def train(self, run: Run) -> Outcome:
        data = NotSoClevr(self.canvas, self.square)
        task, splits = TASKS[self.task](data), data.split(self.split, run.seed)
        model = self.make_model(run.arm).to(run.device)
        return Training(task, model, self.recipe(run.arm), splits, run, self.run_seconds).outcome()

    def kept(self, seed: int) -> tuple[str, ...]:
        return SHOWN if seed == self.seeds[0] else SHOWN[:1]

    def draw(self, results: dict[str, Any]) -> None:
        save(toy_figure(results), self.folder)

    def run(self) -> list[Path]:
        """
        Train what is asked for; ``all`` is an experiment per task and split.

        :return: Their folders
        """
        choose("task", self.task, (*TASKS, "all"))
        choose("split", self.split, SPLITS)
        if self.task != "all":
            return super().run()
        grid = list(itertools.product(TASKS, SPLITS))
        budget = self.budget and self.budget / len(grid)
        parts = [dataclasses.replace(self, task=task, split=split, budget=budget) for task, split in grid]
        for part in parts:
            part.check()
        return [folder for part in parts for folder in part.run()]
