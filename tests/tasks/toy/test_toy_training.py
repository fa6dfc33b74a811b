"""Quick versions of every task: solved with coordinates, not solved with the coordinates removed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from rl_coordconv.tasks.experiment import Outcome
from rl_coordconv.tasks.toy.config import ToyConfig
from rl_coordconv.tasks.toy.figures import plot_example
from rl_coordconv.tasks.toy.models import PixelClassifier, make_model
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr
from rl_coordconv.tasks.toy.tasks import TASKS
from rl_coordconv.tasks.toy.training import RECIPES, Recipe, Training

# As many updates as each task needs on 16 x 16 with some to spare, and what counts as solved.
QUICK = {
    "classification": (Recipe(0.01, 32, 300, 50), 0.95),
    "rendering": (Recipe(0.01, 16, 400, 50), 0.95),
    "regression": (Recipe(0.01, 16, 300, 50), 0.5),
}


@pytest.fixture
def quick_run(make_run):
    """Train on 16 x 16 pixels."""

    def train(task, split="uniform", arch="coordconv", recipe=None, seed=1, budget=60.0) -> Outcome:
        data, run = NotSoClevr(16, 3), make_run(arch, seed)
        model, splits = make_model(task, arch, split, 16), data.split(split, seed)
        outcome = Training(TASKS[task](data), model, recipe or QUICK[task][0], splits, run, budget).outcome()
        run.writer.flush()
        return outcome

    return train


def solved(task: str, run: Outcome) -> bool:
    wanted, score = QUICK[task][1], run.numbers["test_score"]
    return score >= wanted if TASKS[task].higher_is_better else score <= wanted


@pytest.mark.parametrize("task", QUICK)
def test_coordconv_solves_each_task(task, quick_run):
    assert solved(task, quick_run(task)), task


@pytest.mark.parametrize("task", QUICK)
def test_no_task_is_solved_by_the_same_network_without_coordinates(task, quick_run):
    recipe = dataclasses.replace(QUICK[task][0], updates=100)
    run = quick_run(task, arch="coordconv-blind", recipe=recipe)
    if task == "regression":
        assert run.numbers["test_score"] > 2
    else:
        assert run.numbers["test_score"] < 0.1


def test_coordconv_generalises_to_the_quadrant_it_never_saw_and_the_plain_network_does_not(quick_run):
    coordconv = quick_run("regression", "quadrant")
    plain = quick_run("regression", "quadrant", "conv", Recipe(0.01, 32, 100, 50))
    assert solved("regression", coordconv)
    assert not solved("regression", plain)
    assert plain.numbers["test_score"] > 3 * coordconv.numbers["test_score"]


def test_only_a_classifier_with_coordinates_is_not_translation_equivariant():
    # A tiled input is its own translation: what is equivariant answers the same at every pixel.
    data = NotSoClevr(16, 3)
    torch.manual_seed(0)
    model, task = PixelClassifier(16), TASKS["classification"](data)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(model, data.centres[torch.randint(len(data.centres), (32,))]).backward()
        optimizer.step()
    with torch.no_grad():
        trained = model(data.to_unit(data.centres))
        assert float((trained.argmax(1) == data.index(data.centres)).float().mean()) > 0.5
        model.first.coord_weight.zero_()
        blind = model(data.to_unit(data.centres))
    assert torch.equal(blind, blind[:, :1].expand_as(blind))


def test_curves_are_the_history(quick_run, curves, tmp_path):
    history = quick_run("regression", recipe=Recipe(0.01, 32, 60, 20)).samples["history"]
    scalars = curves(tmp_path)
    assert scalars["test/score"] == [(update, pytest.approx(score)) for update, _, _, score in history]
    assert {"train/loss", "train/score", "train/learning_rate"} <= set(scalars)


def test_same_seed_gives_the_same_run(quick_run):
    recipe = Recipe(0.01, 32, 60, 20)
    first, again, other = (
        quick_run("regression", "quadrant", recipe=recipe, seed=seed).samples["history"][:, 3]
        for seed in (1, 1, 2)
    )
    # Not equal to the bit: how the kernels add floats depends on where the memory happens to lie.
    assert first == pytest.approx(again, rel=1e-3)
    assert first != pytest.approx(other, rel=1e-3)


def test_training_stops_when_the_goal_is_reached(quick_run):
    run = quick_run("classification")
    assert run.numbers["updates"] < QUICK["classification"][0].updates
    assert run.numbers["train_score"] == run.numbers["test_score"] == 1
    assert run.samples["history"][-1, 0] == run.numbers["updates"]


def test_training_stops_when_the_budget_is_spent(quick_run):
    run = quick_run("rendering", arch="conv", recipe=RECIPES["rendering", "convolutions"], budget=0.5)
    assert run.numbers["updates"] < RECIPES["rendering", "convolutions"].updates
    assert run.numbers["training_seconds"] + run.numbers["evaluation_seconds"] >= 0.5


def test_samples_are_scored_on_the_way_and_everything_at_the_end(quick_run):
    run = quick_run("rendering", arch="conv", recipe=Recipe(0.005, 32, 30, 10))
    assert run.samples["history"][:, 0].tolist() == [10, 20, 30]
    assert run.samples["predictions"].shape == (3, 16, 16)
    assert len(run.samples["train_errors"]) + len(run.samples["test_errors"]) == 14**2
    assert run.numbers["test_score"] == pytest.approx(1 - run.samples["test_errors"].mean(), abs=1e-6)
    assert run.numbers["evaluation_seconds"] > 0


def test_the_learning_rate_follows_updates_not_the_budget(quick_run, curves, tmp_path):
    quick_run("regression", recipe=Recipe(0.01, 16, 40, 10), budget=1000)
    rates = [rate for _, rate in curves(tmp_path)["train/learning_rate"]]
    assert rates == pytest.approx([0.0075, 0.005, 0.0025, 0], abs=1e-9)


def test_options_replace_the_recipe():
    config = ToyConfig(task="classification", lr=0.02, weight_decay=0.0, updates=7)
    assert config.recipe("conv-coords") == Recipe(0.02, 32, 7, 250, 0.0)
    assert ToyConfig(task="classification").recipe("coordconv") == RECIPES["classification", "pixelwise"]


def test_a_network_that_paints_nothing_is_shown_black() -> None:
    data = NotSoClevr(16, 3)
    axes = Figure().subplots()
    plot_example(axes, TASKS["rendering"](data), torch.tensor([8, 8]), torch.zeros(16, 16))
    shown = np.asarray(axes.get_images()[0].get_array())
    assert shown[:16].max() == 1, "the truth above"
    assert (shown[-16:] == 0).all()
