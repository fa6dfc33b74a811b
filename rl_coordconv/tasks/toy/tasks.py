"""
The three toy tasks (Liu et al. 2018, sections 2 to 4): what a network is trained on, and how it is scored.

| task | network | score | goal |
|---|---|---|---|
| classification | (x, y) to one pixel of the canvas | accuracy | 1 |
| rendering | (x, y) to the painted square | IOU | 0.99 |
| regression | image of the square to (x, y) | mean distance in pixels | 0.1 |
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_coordconv.tasks.toy.models import PixelClassifier, Renderer
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr

# The softmax of a pixelwise classifier is trained on the target's 5 x 5 neighbours and on this many random
# pixels: 1 x 1 convolutions need no other pixel, and on 64 x 64 it is 27 times less work than all of them.
NEIGHBOURHOOD = 2
RANDOM_PIXELS = 128
# The painter sees the same patch around every centre, so a few samples of a batch teach it, on a crop with
# all pixels that the patch reaches and that a crop's rim does not.
PAINTED = 8
MARGIN = 6
# Least height of a one-hot map for it: of a softmax that is not sharp yet it paints the square as well.
LEAST_PEAK = 0.3


class Task(ABC):
    """
    A loss and a score.

    :param data: The squares
    """

    name: str
    score_name: str
    error_name: str
    goal: float
    higher_is_better = True

    def __init__(self, data: NotSoClevr) -> None:
        self.data = data

    @abstractmethod
    def loss(self, model: nn.Module, centres: Tensor) -> Tensor:
        """Return the training loss of a batch of centres, ``(batch, 2) int64``."""

    @abstractmethod
    def predict(self, model: nn.Module, centres: Tensor) -> Tensor:
        """Return what the network says: pixels for regression, else the map ``(batch, canvas, canvas)``."""

    @abstractmethod
    def scores(self, prediction: Tensor, centres: Tensor) -> Tensor:
        """Return the score of each sample, ``(batch,) float32``; the mean is the task's score."""

    @abstractmethod
    def errors(self, prediction: Tensor, centres: Tensor) -> Tensor:
        """Return the error of each sample as the figure shows it, ``(batch,) float32``."""

    @abstractmethod
    def truth(self, centres: Tensor) -> Tensor:
        """Return the maps beside which the figure shows predictions, ``(batch, canvas, canvas)``."""

    def reached(self, score: float) -> bool:
        """Whether a score is as good as the task asks for."""
        return score >= self.goal if self.higher_is_better else score <= self.goal


class Classification(Task):
    """Which pixel is ``(x, y)``?"""

    name, score_name, goal = "classification", "accuracy", 1.0
    error_name = "distance of the likeliest pixel (pixels)"

    def loss(self, model: nn.Module, centres: Tensor) -> Tensor:
        return pixel_loss(model, self.data, centres)

    def predict(self, model: nn.Module, centres: Tensor) -> Tensor:
        logits = model(self.data.to_unit(centres))
        return logits.softmax(dim=1).unflatten(1, (self.data.canvas, self.data.canvas))

    def scores(self, prediction: Tensor, centres: Tensor) -> Tensor:
        return (prediction.flatten(1).argmax(dim=1) == self.data.index(centres)).float()

    def errors(self, prediction: Tensor, centres: Tensor) -> Tensor:
        best = prediction.flatten(1).argmax(dim=1)
        canvas = self.data.canvas
        return (torch.stack([best % canvas, best // canvas], dim=1) - centres).float().norm(dim=1)

    def truth(self, centres: Tensor) -> Tensor:
        return self.data.one_hot(centres).squeeze(1)


class Rendering(Task):
    """Paint the square whose centre is ``(x, y)``."""

    name, score_name, goal = "rendering", "IOU", 0.99
    error_name = "1 - IOU"

    def loss(self, model: nn.Module, centres: Tensor) -> Tensor:
        # In every arm each half learns its own job, at once: the classifier to find the pixel, the painter to
        # paint around a true one-hot map. Scored is the whole: the painter on the classifier's softmax.
        assert isinstance(model, Renderer)
        return pixel_loss(model.classifier, self.data, centres) + self._paint_loss(model, centres[:PAINTED])

    def _paint_loss(self, model: Renderer, centres: Tensor) -> Tensor:
        side = min(self.data.canvas, self.data.square + 2 * MARGIN)
        corner = (centres - side // 2).clamp(0, self.data.canvas - side)
        crops, inside = NotSoClevr(side, self.data.square), centres - corner
        peaks = torch.empty(len(centres), 1, 1, 1, device=centres.device).uniform_(LEAST_PEAK, 1)
        return F.binary_cross_entropy_with_logits(
            model.painter(peaks * crops.one_hot(inside)), crops.squares(inside)
        )

    def predict(self, model: nn.Module, centres: Tensor) -> Tensor:
        logits = model(self.data.to_unit(centres))
        return logits.sigmoid().unflatten(1, (self.data.canvas, self.data.canvas))

    def scores(self, prediction: Tensor, centres: Tensor) -> Tensor:
        painted, wanted = prediction > 0.5, self.truth(centres) > 0.5
        return (painted & wanted).sum(dim=(1, 2)) / (painted | wanted).sum(dim=(1, 2))

    def errors(self, prediction: Tensor, centres: Tensor) -> Tensor:
        return 1 - self.scores(prediction, centres)

    def truth(self, centres: Tensor) -> Tensor:
        return self.data.squares(centres).squeeze(1)


class Regression(Task):
    """Where is the square?"""

    name, score_name, goal = "regression", "distance in pixels", 0.1
    error_name = "distance (pixels)"
    higher_is_better = False

    def loss(self, model: nn.Module, centres: Tensor) -> Tensor:
        return F.mse_loss(model(self.data.squares(centres)), self.data.to_unit(centres))

    def predict(self, model: nn.Module, centres: Tensor) -> Tensor:
        return self.data.to_pixels(model(self.data.squares(centres)))

    def scores(self, prediction: Tensor, centres: Tensor) -> Tensor:
        return (prediction - centres).norm(dim=1)

    def errors(self, prediction: Tensor, centres: Tensor) -> Tensor:
        return self.scores(prediction, centres)

    def truth(self, centres: Tensor) -> Tensor:
        return self.data.squares(centres).squeeze(1)


TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Rendering, Regression)}


def pixel_loss(classifier: nn.Module, data: NotSoClevr, centres: Tensor) -> Tensor:
    """
    Return the cross-entropy over all pixels, or its estimate where single pixels can be asked for.

    :param classifier: ``(batch, 2)`` to a logit for every pixel
    :param data: The squares
    :param centres: ``(batch, 2) int64``
    """
    if isinstance(classifier, PixelClassifier):
        return sampled_softmax_loss(classifier, data, centres)
    return F.cross_entropy(classifier(data.to_unit(centres)), data.index(centres))


def sampled_softmax_loss(model: PixelClassifier, data: NotSoClevr, centres: Tensor) -> Tensor:
    """
    Estimate the cross-entropy over all pixels from the target's neighbours and some random pixels.

    The neighbours are the pixels that are hard to tell apart. Random pixels stand for all others, each for as
    many as it was drawn from (importance weights of Bengio & Senécal 2008), so the sum in the softmax is
    unbiased. Where no fewer pixels would be computed, all of them are.

    :param model: The classifier
    :param data: The squares
    :param centres: ``(batch, 2) int64``
    """
    xy, canvas, reach = data.to_unit(centres), data.canvas, NEIGHBOURHOOD
    side = 2 * reach + 1
    if side**2 + RANDOM_PIXELS >= canvas**2:
        return F.cross_entropy(model(xy), data.index(centres))
    steps = torch.arange(side**2, device=centres.device)
    near = centres[:, None] + torch.stack([steps % side, steps // side], dim=1) - reach  # (batch, 25, 2)
    outside = ((near < 0) | (near >= canvas)).any(dim=2)
    random = torch.randint(canvas**2, (len(centres), RANDOM_PIXELS), device=centres.device)
    distance = (torch.stack([random % canvas, random // canvas], dim=2) - centres[:, None]).abs().amax(dim=2)
    pixels = torch.cat([data.index(near.flatten(0, 1)).view_as(outside).masked_fill(outside, 0), random], 1)
    never = torch.cat([outside, distance <= reach], dim=1)
    logits = model(xy, pixels)
    share = math.log(canvas**2 / RANDOM_PIXELS)
    weights = torch.cat([logits.new_zeros(side**2), logits.new_full((RANDOM_PIXELS,), share)])
    target = torch.full_like(centres[:, 0], side**2 // 2)
    return F.cross_entropy((logits + weights).masked_fill(never, -math.inf), target)
