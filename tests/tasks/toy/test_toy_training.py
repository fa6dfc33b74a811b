"""Quick versions of every task: solved with coordinates, not solved with the coordinates removed."""

from __future__ import annotations

import pytest
import torch

from rl_coordconv import layers
from rl_coordconv.tasks.experiment import Outcome
from rl_coordconv.tasks.toy.config import ToyConfig
from rl_coordconv.tasks.toy.models import CoordClassifier
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr
from rl_coordconv.tasks.toy.tasks import TASKS, make_task
from rl_coordconv.tasks.toy.training import RECIPES, Recipe

# As many updates as each task needs on 16 x 16 with some to spare, and what counts as solved.
QUICK = {
    "classification": (Recipe(0.01, 32, 300, 50), 0.95),
    "rendering": (Recipe(0.01, 16, 400, 50), 0.95),
    "regression": (Recipe(0.01, 32, 700, 50), 0.5),
}


@pytest.fixture
def quick_run(make_run):
    """Train on 16 x 16 pixels."""

    def train(task, split="uniform", arch="coordconv", recipe=None, seed=1, budget=60.0) -> Outcome:
        config = ToyConfig(task=task, arch=arch, split=split, canvas=16, square=3, budget=budget)
        run = make_run(arch, seed)
        outcome = config.train(run, recipe or QUICK[task][0])
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
def test_no_task_is_solved_with_the_coordinates_removed(task, quick_run, monkeypatch):
    original = layers.coordinate_map
    monkeypatch.setattr(layers, "coordinate_map", lambda *args, **kw: torch.zeros_like(original(*args, **kw)))
    run = quick_run(task)
    assert not solved(task, run)
    if task == "regression":
        assert run.numbers["test_score"] > 2
    else:
        assert run.numbers["test_score"] < 0.1


def test_coordconv_generalises_to_the_quadrant_it_never_saw_and_the_plain_network_does_not(quick_run):
    coordconv = quick_run("regression", "quadrant")
    plain = quick_run("regression", "quadrant", "conv", Recipe(0.01, 32, 300, 50))
    assert solved("regression", coordconv)
    assert not solved("regression", plain)
    assert plain.numbers["test_score"] > 3 * coordconv.numbers["test_score"]


def test_only_a_classifier_with_coordinates_is_not_translation_equivariant():
    # A tiled input is its own translation: what is equivariant answers the same at every pixel.
    data = NotSoClevr(16, 3)
    torch.manual_seed(0)
    model, task = CoordClassifier(16), make_task("classification", data)
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
    run = quick_run("rendering", arch="conv", recipe=RECIPES["rendering", "conv"], budget=0.5)
    assert run.numbers["updates"] < RECIPES["rendering", "conv"].updates
    assert run.samples["history"][-1, 1] >= 0.5


def test_best_is_the_best_test_score_of_all_evaluations(quick_run):
    run = quick_run("rendering", arch="conv", recipe=Recipe(0.005, 32, 60, 10))
    scores = run.samples["history"][:, 3]
    assert len(scores) == 6
    assert run.numbers["test_score"] == scores.max()
    assert run.samples["predictions"].shape == (3, 16, 16)
