"""Train one network on one toy task until it is solved, or its updates or seconds are spent."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_coordconv.tasks.experiment import Outcome, Run
from rl_coordconv.tasks.seed_statistics import Numbers
from rl_coordconv.tasks.toy.models import CoordRenderer, count_parameters
from rl_coordconv.tasks.toy.tasks import Task

EVAL_BATCH = {"cpu": 4, "cuda": 256}  # what a CPU's cache holds; what keeps a GPU busy


@dataclass(frozen=True)
class Recipe:
    """
    How to train one kind of network.

    :param learning_rate: AdamW's, at the start; falls to 0 as updates or seconds run out
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


class Training:
    """
    One training.

    :param task: Loss and score
    :param model: The network, on the run's device
    :param recipe: How to train it
    :param splits: Centres to train on and to test on, ``(samples, 2) int64``
    :param run: Seed, device, TensorBoard and progress bar
    :param seconds: After which it stops
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        recipe: Recipe,
        splits: tuple[Tensor, Tensor],
        run: Run,
        seconds: float,
    ) -> None:
        self.task, self.model, self.recipe, self.run, self.budget = task, model, recipe, run, seconds
        self.train, self.test = (part.to(run.device) for part in splits)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, recipe.learning_rate),
            recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        self.learning_rates = [group["lr"] for group in self.optimizer.param_groups]
        generator = torch.Generator().manual_seed(run.seed)
        self.examples = self.test[torch.randperm(len(self.test), generator=generator)[:3].to(run.device)]
        self.history: list[Evaluation] = []
        self.best: Evaluation
        self.waiting = self.train[:0]

    @property
    def seconds(self) -> float:
        """Since training began."""
        return time.perf_counter() - self.start

    def spent(self, update: int) -> float:
        """Return the share of the run that is over, 0 to 1."""
        return min(max(update / self.recipe.updates, self.seconds / self.budget), 1.0)

    def outcome(self) -> Outcome:
        """Train; return the scores of the best evaluation, and what the figure shows of it."""
        self.start = time.perf_counter()
        update, over, losses = 0, False, torch.zeros((), device=self.train.device)
        since = 0
        while not over:
            loss = self._update(self._next_batch(), self.spent(update))
            losses += loss
            update, since = update + 1, since + 1
            self.run.show_progress(update, self.recipe.updates, f"loss {{:.3g}}  {self._scores()}", loss)
            over = self.spent(update) >= 1
            if over or update % self.recipe.eval_updates == 0:
                newest = self._evaluate(update, float(losses) / since)
                losses, since = losses.zero_(), 0
                solved = self.task.reached(newest.test_score) and self.task.reached(newest.train_score)
                over = over or solved
        return self._outcome(update)

    def _outcome(self, update: int) -> Outcome:
        numbers: Numbers = {
            "train_score": self.best.train_score,
            "test_score": self.best.test_score,
            "seconds_to_best": round(self.best.seconds, 3),
            "parameters": count_parameters(self.model),
            "updates": update,
            "seconds_allowed": round(self.budget, 3),
        }
        history = [[e.update, e.seconds, e.train_score, e.test_score] for e in self.history]
        samples = {
            "history": np.array(history),
            "train_errors": self.best.train_errors.numpy(),
            "test_errors": self.best.test_errors.numpy(),
            "examples": self.examples.cpu().numpy(),
            "predictions": self.predictions.cpu().numpy(),
        }
        return Outcome(numbers, samples)

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
        if not self.history or self._beats(newest, self.best):
            self.best = newest
            self.predictions = self.task.predict(self.model, self.examples)
        self.history.append(newest)
        self.run.writer.add_scalar("train/loss", loss, update)
        self.run.writer.add_scalar("train/learning_rate", self.optimizer.param_groups[0]["lr"], update)
        self.run.writer.add_scalar("train/score", train_score, update)
        self.run.writer.add_scalar("test/score", test_score, update)
        return newest

    def _scores(self) -> str:
        if not self.history:
            return ""
        newest = self.history[-1]
        return f"{self.task.score_name}: train {newest.train_score:.3f}, test {newest.test_score:.3f}"

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
