"""
Train one network on one toy task: one *run*.

On disk, under ``<output>/<task>/<split>/<arch>/seed<k>/``::

    events.out.tfevents.*   loss, train and test score, learning rate
    result.json             the run's options, test_score, train_score, parameters, seconds
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter

from rl_coordconv.runs.folder import versions, write_text
from rl_coordconv.tasks.not_so_clevr import NotSoClevr
from rl_coordconv.tasks.toy_models import count_parameters, make_model
from rl_coordconv.tasks.toy_tasks import Task, make_task

EVAL_BATCH = 32  # 16 MB of activations a layer at 64 x 64: a CPU's cache and a small GPU both like it


@dataclass(frozen=True)
class Recipe:
    """
    How to train one kind of network.

    :param learning_rate: Adam's, at the start; it falls to 0 as epochs or budget run out, whichever is first
    :param batch_size: Samples per update
    :param epochs: Most passes over the training split
    :param eval_epochs: Passes between two evaluations
    :param weight_decay: L2 penalty
    """

    learning_rate: float
    batch_size: int
    epochs: int
    eval_epochs: int
    weight_decay: float = 0.0


RECIPES = {
    ("classification", "coordconv"): Recipe(0.01, 64, 40, 5),
    ("classification", "conv"): Recipe(0.005, 32, 2000, 10),
    ("rendering", "coordconv"): Recipe(0.01, 32, 40, 5),
    ("rendering", "conv"): Recipe(0.005, 32, 2000, 10),
    ("regression", "coordconv"): Recipe(0.01, 32, 40, 5, 1e-5),
    ("regression", "conv"): Recipe(0.002, 32, 500, 5),
}


@dataclass(frozen=True)
class RunOptions:
    """
    What identifies a run.

    :param task: classification, rendering or regression
    :param arch: coordconv or conv
    :param split: uniform or quadrant
    :param seed: Seed of weights, order of samples and the uniform split
    :param canvas: Side of the canvas in pixels
    :param square: Side of the square in pixels
    :param width: Width of the plain transposed convolutions
    :param filter: Filter size of the plain transposed convolutions
    :param budget: Seconds after which training stops
    """

    task: str
    arch: str
    split: str
    seed: int = 1
    canvas: int = 64
    square: int = 9
    width: int = 2
    filter: int = 3
    budget: float = 60.0

    @property
    def folder(self) -> Path:
        """Where the run lives below the output folder."""
        return Path(self.task) / self.split / self.arch / f"seed{self.seed}"


@dataclass(frozen=True)
class Evaluation:
    """
    Scores of both splits at one moment.

    :param epoch: Passes over the training split so far
    :param seconds: Since training began, evaluations included
    :param train_score: Mean score of all training samples
    :param test_score: Mean score of all test samples
    :param train_errors: Error of each training sample
    :param test_errors: Error of each test sample
    """

    epoch: int
    seconds: float
    train_score: float
    test_score: float
    train_errors: Tensor = field(repr=False)
    test_errors: Tensor = field(repr=False)


@dataclass
class Run:
    """
    A finished run, with what its figure shows.

    :param options: What was asked for
    :param parameters: Trained numbers in the network
    :param history: All evaluations
    :param best: The evaluation with the best test score, the earliest of equals
    :param examples: Test centres of the figure's examples, ``(n, 2) int64``
    :param predictions: What the network said of them at its best evaluation
    :param seconds: Wall-clock time of training, evaluations included
    :param device: Where it ran
    """

    options: RunOptions
    parameters: int
    history: list[Evaluation]
    best: Evaluation
    examples: Tensor
    predictions: Tensor
    seconds: float
    device: str

    @property
    def result(self) -> dict[str, Any]:
        """The run as plain values for JSON."""
        return {
            **dataclasses.asdict(self.options),
            "device": self.device,
            "parameters": self.parameters,
            "train_score": self.best.train_score,
            "test_score": self.best.test_score,
            "seconds": round(self.seconds, 3),
            "seconds_to_best": round(self.best.seconds, 3),
            "epochs": self.history[-1].epoch,
            "history": [[e.epoch, round(e.seconds, 3), e.train_score, e.test_score] for e in self.history],
            "versions": versions(),
        }


Progress = Callable[[float, str], None]


def train_run(
    options: RunOptions,
    output: Path,
    device: torch.device,
    progress: Progress = lambda share, text: None,
    recipe: Recipe | None = None,
) -> Run:
    """
    Train a network until it reaches the task's goal on both splits, or its epochs or budget are spent.

    :param options: What to train
    :param output: Folder that holds all runs
    :param device: Where to train
    :param progress: Called with the share of the run that is over and the newest scores
    :param recipe: How to train (default: the one of task and arch)
    :return: The run, which is on disk by then
    """
    recipe = recipe or RECIPES[options.task, options.arch]
    data = NotSoClevr(options.canvas, options.square)
    task = make_task(options.task, data)
    train, test = (part.to(device) for part in data.split(options.split, options.seed))
    torch.manual_seed(options.seed)
    model = make_model(
        options.task, options.arch, options.split, options.canvas, options.width, options.filter
    )
    model.to(device)
    folder = output / options.folder
    folder.mkdir(parents=True, exist_ok=True)
    with SummaryWriter(str(folder)) as writer:
        run = _Loop(options, recipe, task, model, train, test, writer, progress).run()
    write_text(folder / "result.json", json.dumps(run.result, indent=2) + "\n")
    return run


class _Loop:
    """The state of one training."""

    def __init__(
        self,
        options: RunOptions,
        recipe: Recipe,
        task: Task,
        model: nn.Module,
        train: Tensor,
        test: Tensor,
        writer: SummaryWriter,
        progress: Progress,
    ) -> None:
        self.options, self.recipe, self.task, self.model = options, recipe, task, model
        self.train, self.test, self.writer, self.progress = train, test, writer, progress
        self.optimizer = torch.optim.Adam(
            model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        generator = torch.Generator().manual_seed(options.seed)
        self.examples = test[torch.randperm(len(test), generator=generator)[:3].to(test.device)]
        self.history: list[Evaluation] = []
        self.best: Evaluation | None = None
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def spent(self, epoch: int) -> float:
        """The share of the run that is over, 0 to 1."""
        return min(max(epoch / self.recipe.epochs, self.seconds / self.options.budget), 1.0)

    def run(self) -> Run:
        epoch = 0
        while True:
            epoch += 1
            loss = self._epoch(epoch)
            over = self.spent(epoch) >= 1
            if over or epoch % self.recipe.eval_epochs == 0:
                newest = self._evaluate(epoch, loss)
                if over or (self.task.reached(newest.test_score) and self.task.reached(newest.train_score)):
                    break
            self._show(epoch)
        assert self.best is not None
        return Run(
            self.options,
            count_parameters(self.model),
            self.history,
            self.best,
            self.examples.cpu(),
            self.predictions.cpu(),
            self.seconds,
            device_name(self.train.device),
        )

    def _epoch(self, epoch: int) -> float:
        """Pass over the training split once, or until the budget is spent, and return the mean loss."""
        self.model.train()
        batches = self.train[torch.randperm(len(self.train), device=self.train.device)].split(
            self.recipe.batch_size
        )
        total = torch.zeros((), device=self.train.device)
        for done, batch in enumerate(batches):
            spent = self.spent(epoch - 1) + done / len(batches) / self.recipe.epochs
            if self.seconds >= self.options.budget and done:
                return float(total) / done
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.learning_rate * max(1 - spent, 0.0)
            loss = self.task.loss(self.model, batch)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        return float(total) / len(batches)

    @torch.no_grad()
    def _evaluate(self, epoch: int, loss: float) -> Evaluation:
        """Score all samples of both splits, and keep the best moment."""
        self.model.eval()
        (train_score, train_errors), (test_score, test_errors) = map(self._score, (self.train, self.test))
        newest = Evaluation(epoch, self.seconds, train_score, test_score, train_errors, test_errors)
        self.history.append(newest)
        if self.best is None or self.task.better(test_score, self.best.test_score):
            self.best = newest
            self.predictions = self.task.predict(self.model, self.examples)
        self.writer.add_scalar("train/loss", loss, epoch)
        self.writer.add_scalar("train/learning_rate", self.optimizer.param_groups[0]["lr"], epoch)
        self.writer.add_scalar("train/score", train_score, epoch)
        self.writer.add_scalar("test/score", test_score, epoch)
        return newest

    def _score(self, centres: Tensor) -> tuple[float, Tensor]:
        scores, errors = [], []
        for batch in centres.split(EVAL_BATCH):
            prediction = self.task.predict(self.model, batch)
            scores.append(self.task.scores(prediction, batch))
            errors.append(self.task.errors(prediction, batch))
        return float(torch.cat(scores).mean()), torch.cat(errors).cpu()

    def _show(self, epoch: int) -> None:
        text = "-"
        if self.history:
            text = f"train {self.history[-1].train_score:.3f} test {self.history[-1].test_score:.3f}"
        self.progress(self.spent(epoch), text)


def device_name(device: torch.device) -> str:
    """Return a device as results name it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"
