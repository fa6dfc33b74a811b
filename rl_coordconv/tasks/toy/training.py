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
from rl_coordconv.tasks.toy.models import CoordRenderer, count_parameters, make_model
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr
from rl_coordconv.tasks.toy.tasks import Task, make_task

EVAL_BATCH = {"cpu": 4, "cuda": 256}  # what a CPU's cache holds; what keeps a GPU busy


@dataclass(frozen=True)
class Recipe:
    """
    How to train one kind of network.

    :param learning_rate: AdamW's, at the start; falls to 0 as updates or budget run out
    :param batch_size: Samples per update
    :param updates: Most updates
    :param eval_updates: Updates between two evaluations
    :param weight_decay: AdamW's. Without it 1 CoordConv classifier in 8 does not generalise
    """

    learning_rate: float
    batch_size: int
    updates: int
    eval_updates: int
    weight_decay: float = 0.0


# Learning rates of the plain networks: the best test score of 0.001 to 0.1 after a short run at 32 x 32.
RECIPES = {
    ("classification", "coordconv"): Recipe(0.01, 64, 20_000, 100, 0.5),
    ("classification", "conv"): Recipe(0.05, 32, 150_000, 250),
    ("rendering", "coordconv"): Recipe(0.01, 64, 20_000, 1000, 0.5),
    ("rendering", "conv"): Recipe(0.01, 32, 150_000, 250),
    ("regression", "coordconv"): Recipe(0.01, 32, 1500, 100, 1e-5),
    ("regression", "conv"): Recipe(0.002, 32, 50_000, 250),
}


def parameter_groups(model: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """
    Return what the optimizer treats alike.

    The renderer's painter sees the same patch in every sample, so there is nothing for weight decay to
    generalise, and its five narrow layers die at the classifier's learning rate.

    :param model: The network
    :param learning_rate: The recipe's
    """
    if not isinstance(model, CoordRenderer):
        return [{"params": list(model.parameters())}]
    painter = {"params": list(model.painter.parameters()), "weight_decay": 0.0, "lr": 0.3 * learning_rate}
    return [{"params": list(model.classifier.parameters())}, painter]


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

    :param update: Updates so far
    :param seconds: Since training began, evaluations included
    :param train_score: Mean score of all training samples
    :param test_score: Mean score of all test samples
    :param train_errors: Error of each training sample
    :param test_errors: Error of each test sample
    """

    update: int
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
    :param best: The evaluation with the best test score; of equals, the one with the best train score
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
            "updates": self.history[-1].update,
            "history": [[e.update, round(e.seconds, 3), e.train_score, e.test_score] for e in self.history],
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
    Train a network until it reaches the task's goal on both splits, or its updates or budget are spent.

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
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, recipe.learning_rate),
            recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        self.learning_rates = [group["lr"] for group in self.optimizer.param_groups]
        generator = torch.Generator().manual_seed(options.seed)
        self.examples = test[torch.randperm(len(test), generator=generator)[:3].to(test.device)]
        self.history: list[Evaluation] = []
        self.best: Evaluation | None = None
        self.waiting = train[:0]
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def spent(self, update: int) -> float:
        """The share of the run that is over, 0 to 1."""
        return min(max(update / self.recipe.updates, self.seconds / self.options.budget), 1.0)

    def run(self) -> Run:
        update, over, losses = 0, False, torch.zeros((), device=self.train.device)
        since = 0
        while not over:
            losses += self._update(self._next_batch(), self.spent(update))
            update, since = update + 1, since + 1
            over = self.spent(update) >= 1
            if over or update % self.recipe.eval_updates == 0:
                newest = self._evaluate(update, float(losses) / since)
                losses, since = losses.zero_(), 0
                over = over or (
                    self.task.reached(newest.test_score) and self.task.reached(newest.train_score)
                )
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

    def _next_batch(self) -> Tensor:
        """Return the next batch of an endless, always newly shuffled row of training samples."""
        while len(self.waiting) < self.recipe.batch_size:
            order = torch.randperm(len(self.train), device=self.train.device)
            self.waiting = torch.cat([self.waiting, self.train[order]])
        batch, self.waiting = self.waiting.tensor_split([self.recipe.batch_size])
        return batch

    def _update(self, batch: Tensor, spent: float) -> Tensor:
        self.model.train()
        for group, learning_rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = learning_rate * (1 - spent)
        loss = self.task.loss(self.model, batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def _evaluate(self, update: int, loss: float) -> Evaluation:
        """Score all samples of both splits, and keep the best moment."""
        self.model.eval()
        (train_score, train_errors), (test_score, test_errors) = map(self._score, (self.train, self.test))
        newest = Evaluation(update, self.seconds, train_score, test_score, train_errors, test_errors)
        self.history.append(newest)
        if self.best is None or self._beats(newest, self.best):
            self.best = newest
            self.predictions = self.task.predict(self.model, self.examples)
        self.writer.add_scalar("train/loss", loss, update)
        self.writer.add_scalar("train/learning_rate", self.optimizer.param_groups[0]["lr"], update)
        self.writer.add_scalar("train/score", train_score, update)
        self.writer.add_scalar("test/score", test_score, update)
        scores = f"{self.task.score_name}: train {train_score:.3f}, test {test_score:.3f}"
        self.progress(self.spent(update), scores)
        return newest

    def _beats(self, newest: Evaluation, best: Evaluation) -> bool:
        if newest.test_score == best.test_score:
            return self.task.better(newest.train_score, best.train_score)
        return self.task.better(newest.test_score, best.test_score)

    def _score(self, centres: Tensor) -> tuple[float, Tensor]:
        scores, errors = [], []
        for batch in centres.split(EVAL_BATCH[centres.device.type]):
            prediction = self.task.predict(self.model, batch)
            scores.append(self.task.scores(prediction, batch))
            errors.append(self.task.errors(prediction, batch))
        return float(torch.cat(scores).mean()), torch.cat(errors).cpu()


def device_name(device: torch.device) -> str:
    """Return a device as results name it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"
