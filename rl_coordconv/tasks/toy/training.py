"""Train one network on one toy task until it is solved, or its updates or seconds are spent."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_coordconv.tasks.experiment import Outcome, Run
from rl_coordconv.tasks.networks import count_parameters
from rl_coordconv.tasks.seed_statistics import Numbers
from rl_coordconv.tasks.toy.models import MaxPoolRegressor, PixelClassifier, Renderer
from rl_coordconv.tasks.toy.tasks import Task

EVAL_BATCH = {"cpu": 4, "cuda": 256}  # what a CPU's cache holds; what keeps a GPU busy
EVAL_SAMPLE = 128  # of each split: scoring all of both costs as much as some 250 updates


@dataclass(frozen=True)
class Recipe:
    """
    How to train one kind of network.

    :param learning_rate: AdamW's, at the start; falls to 0 over the updates
    :param batch_size: Samples per update
    :param updates: Most updates
    :param eval_updates: Updates between two evaluations
    :param weight_decay: AdamW's. Without it a CoordConv classifier does not generalise to a held-out quadrant
    """

    learning_rate: float
    batch_size: int
    updates: int
    eval_updates: int
    weight_decay: float = 0.0


# By task and stack, so that an arm with coordinates is trained like its twin without.
# Learning rates of the convolutions: the best test score of 0.001 to 0.1 after a short run at 32 x 32.
RECIPES = {
    ("classification", "pixelwise"): Recipe(0.01, 64, 1000, 100, 0.5),
    ("classification", "convolutions"): Recipe(0.05, 32, 30_000, 250),
    ("rendering", "pixelwise"): Recipe(0.01, 32, 1000, 100, 0.5),
    ("rendering", "convolutions"): Recipe(0.05, 32, 30_000, 250),
    ("regression", "pixelwise"): Recipe(0.006, 16, 600, 50, 1e-5),
    ("regression", "convolutions"): Recipe(0.002, 32, 20_000, 250),
}


def parameter_groups(model: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """
    Return what the optimizer treats alike.

    A renderer's painter sees the same patch in every sample, so there is nothing for weight decay to
    generalise, and its five narrow layers die at the classifier's learning rate. It also needs a sharp
    softmax, which decay of the last layer's weights, the scale of the logits, would flatten.

    The regressor's windows start with nine times smaller weights, which Adam's even steps would turn around
    before the coordinates are learned; 1 seed in 20 then loses an output for good.

    :param model: The network
    :param learning_rate: The recipe's
    """
    special: list[dict[str, Any]] = []
    if isinstance(model, MaxPoolRegressor):
        special = [{"params": list(model.convolutions[3:].parameters()), "lr": learning_rate / 9}]
    elif isinstance(model, Renderer):
        painter = {"params": list(model.painter.parameters()), "weight_decay": 0.0, "lr": 0.3 * learning_rate}
        special = [painter]
        if isinstance(model.classifier, PixelClassifier):
            special.append({"params": list(model.classifier.rest[-1:].parameters()), "weight_decay": 0.0})
    taken = {id(parameter) for group in special for parameter in group["params"]}
    return [{"params": [p for p in model.parameters() if id(p) not in taken]}, *special]


@dataclass(frozen=True)
class Evaluation:
    """
    Scores of both splits at one moment, of a sample of each or of all.

    :param update: Updates so far
    :param seconds: Of training, evaluations not included
    :param cpu_seconds: The same of processor time, of all threads, which other processes do not lengthen
    :param train_score: Mean score of training samples
    :param test_score: Mean score of test samples
    :param train_errors: Error of each training sample
    :param test_errors: Error of each test sample
    """

    update: int
    seconds: float
    cpu_seconds: float
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
    :param seconds: After which it stops, evaluations included
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
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1, 0, recipe.updates)
        generator = torch.Generator().manual_seed(run.seed)
        self.sample = [
            part[torch.randperm(len(part), generator=generator)[:EVAL_SAMPLE].to(run.device)]
            for part in (self.train, self.test)
        ]
        self.history: list[Evaluation] = []
        self.evaluating = self.evaluating_cpu = 0.0
        self.waiting = self.train[:0]

    @property
    def seconds(self) -> float:
        """Since training began, evaluations included."""
        return time.perf_counter() - self.start

    @property
    def cpu_seconds(self) -> float:
        """Processor time since training began, of all threads, evaluations included."""
        return time.process_time() - self.start_cpu

    def outcome(self) -> Outcome:
        """Train until solved or out of updates or seconds; return the scores of all samples at the end."""
        self.start, self.start_cpu = time.perf_counter(), time.process_time()
        update, since, over, losses = 0, 0, False, torch.zeros((), device=self.train.device)
        while not over:
            loss = self._update(self._next_batch())
            losses += loss
            update, since = update + 1, since + 1
            self.run.show_progress(update, self.recipe.updates, f"loss {{:.3g}}  {self._scores()}", loss)
            spent = update >= self.recipe.updates or self.seconds >= self.budget
            if spent or update % self.recipe.eval_updates == 0:
                over = self._evaluate(update, float(losses) / since, spent) or spent
                losses, since = losses.zero_(), 0
        return self._outcome()

    def _outcome(self) -> Outcome:
        last = self.history[-1]
        numbers: Numbers = {
            "train_score": last.train_score,
            "test_score": last.test_score,
            "solved": float(self._solved(last)),
            "training_seconds": round(last.seconds, 3),
            "training_cpu_seconds": round(last.cpu_seconds, 3),
            "evaluation_seconds": round(self.evaluating, 3),
            "parameters": count_parameters(self.model),
            "updates": last.update,
            "seconds_allowed": round(self.budget, 3),
        }
        examples = self.sample[1][:3]
        with torch.no_grad():
            predictions = self.task.predict(self.model, examples)
        samples = {
            "history": np.array([[e.update, e.seconds, e.train_score, e.test_score] for e in self.history]),
            "train_errors": last.train_errors.numpy(),
            "test_errors": last.test_errors.numpy(),
            "examples": examples.cpu().numpy(),
            "predictions": predictions.cpu().numpy(),
        }
        return Outcome(numbers, samples)

    def _next_batch(self) -> Tensor:
        """Return the next batch of an endless, always newly shuffled row of training samples."""
        while len(self.waiting) < self.recipe.batch_size:
            order = torch.randperm(len(self.train), device=self.train.device)
            self.waiting = torch.cat([self.waiting, self.train[order]])
        batch, self.waiting = self.waiting.tensor_split([self.recipe.batch_size])
        return batch

    def _update(self, batch: Tensor) -> Tensor:
        self.model.train()
        loss = self.task.loss(self.model, batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    @torch.no_grad()
    def _evaluate(self, update: int, loss: float, spent: bool) -> bool:
        """Score a sample of both splits, and all samples when that reaches the goal; say if these do."""
        self.model.eval()
        trained = self.seconds - self.evaluating, self.cpu_seconds - self.evaluating_cpu
        newest = None if spent else self._score(update, trained, *self.sample)
        if newest is None or self._solved(newest):
            newest = self._score(update, trained, self.train, self.test)
        self.history.append(newest)
        for key, value in (
            ("train/loss", loss),
            ("train/learning_rate", self.optimizer.param_groups[0]["lr"]),
            ("train/score", newest.train_score),
            ("test/score", newest.test_score),
        ):
            self.run.writer.add_scalar(key, value, update)
        self.evaluating, self.evaluating_cpu = self.seconds - trained[0], self.cpu_seconds - trained[1]
        everything = len(newest.train_errors) == len(self.train)
        return everything and self._solved(newest)

    def _solved(self, scores: Evaluation) -> bool:
        return self.task.reached(scores.test_score) and self.task.reached(scores.train_score)

    def _scores(self) -> str:
        if not self.history:
            return ""
        newest = self.history[-1]
        return f"{self.task.score_name}: train {newest.train_score:.3f}, test {newest.test_score:.3f}"

    def _score(self, update: int, trained: tuple[float, float], train: Tensor, test: Tensor) -> Evaluation:
        (train_score, train_errors), (test_score, test_errors) = map(self._score_part, (train, test))
        return Evaluation(update, *trained, train_score, test_score, train_errors, test_errors)

    def _score_part(self, centres: Tensor) -> tuple[float, Tensor]:
        scores, errors = [], []
        for batch in centres.split(EVAL_BATCH[centres.device.type]):
            prediction = self.task.predict(self.model, batch)
            scores.append(self.task.scores(prediction, batch))
            errors.append(self.task.errors(prediction, batch))
        return float(torch.cat(scores).mean()), torch.cat(errors).cpu()
