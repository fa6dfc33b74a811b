"""Quick versions of every task: solved with coordinates, not solved with the coordinates removed."""

from __future__ import annotations

import json

import pytest
import torch

from rl_coordconv import layers
from rl_coordconv.tasks.toy import training as toy_training
from rl_coordconv.tasks.toy.models import CoordClassifier
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr
from rl_coordconv.tasks.toy.tasks import TASKS, make_task
from rl_coordconv.tasks.toy.training import Recipe, Run, RunOptions, train_run

CPU = torch.device("cpu")
# As many updates as each task needs on 16 x 16 with some to spare, and what counts as solved.
QUICK = {
    "classification": (Recipe(0.01, 32, 300, 50), 0.95),
    "rendering": (Recipe(0.01, 16, 400, 50), 0.95),
    "regression": (Recipe(0.01, 32, 700, 50), 0.5),
}
SMALL = {"canvas": 16, "square": 3, "budget": 60.0}


def quick_run(task, tmp_path, split="uniform", arch="coordconv", recipe=None, **changes) -> Run:
    options = RunOptions(task, arch, split, **{**SMALL, **changes})
    return train_run(options, tmp_path, CPU, recipe=recipe or QUICK[task][0])


def solved(run: Run) -> bool:
    wanted = QUICK[run.options.task][1]
    score = run.best.test_score
    return score >= wanted if TASKS[run.options.task].higher_is_better else score <= wanted


@pytest.mark.parametrize("task", QUICK)
def test_coordconv_solves_each_task(task, tmp_path):
    assert solved(quick_run(task, tmp_path)), task


@pytest.mark.parametrize("task", QUICK)
def test_no_task_is_solved_with_the_coordinates_removed(task, tmp_path, monkeypatch):
    original = layers.coordinate_map
    monkeypatch.setattr(layers, "coordinate_map", lambda *args, **kw: torch.zeros_like(original(*args, **kw)))
    run = quick_run(task, tmp_path)
    assert not solved(run)
    if task == "regression":
        assert run.best.test_score > 2
    else:
        assert run.best.test_score < 0.1


def test_coordconv_generalises_to_the_quadrant_it_never_saw_and_the_plain_network_does_not(tmp_path):
    coordconv = quick_run("regression", tmp_path, "quadrant")
    plain = quick_run("regression", tmp_path, "quadrant", "conv")
    assert solved(coordconv)
    assert not solved(plain)
    assert plain.best.test_score > 3 * coordconv.best.test_score


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


def test_result_and_curves_are_on_disk(tmp_path, curves):
    run = quick_run("regression", tmp_path)
    folder = tmp_path / "regression" / "uniform" / "coordconv" / "seed1"
    result = json.loads((folder / "result.json").read_text())
    assert {"test_score", "train_score", "parameters", "seconds"} <= set(result)
    assert result["parameters"] == 906
    assert result["test_score"] == run.best.test_score
    assert (result["task"], result["split"], result["arch"]) == ("regression", "uniform", "coordconv")
    assert (result["seed"], result["canvas"]) == (1, 16)
    scalars = curves(folder)
    assert [value for _, value in scalars["test/score"]] == pytest.approx([e.test_score for e in run.history])
    assert {"train/loss", "train/score", "train/learning_rate"} <= set(scalars)
    assert not [path for path in folder.iterdir() if ".tmp" in path.name]


def test_same_seed_gives_the_same_run(tmp_path):
    recipe = Recipe(0.01, 32, 60, 20)
    runs = [
        quick_run("regression", tmp_path / name, "quadrant", recipe=recipe, seed=seed)
        for seed, name in ((1, "first"), (1, "again"), (2, "other"))
    ]
    first, again, other = ([e.test_score for e in run.history] for run in runs)
    # Not equal to the bit: how the kernels add floats depends on where the memory happens to lie.
    assert first == pytest.approx(again, rel=1e-3)
    assert first != pytest.approx(other, rel=1e-3)


def test_training_stops_when_the_goal_is_reached_or_the_budget_is_spent(tmp_path):
    run = quick_run("classification", tmp_path)
    assert run.history[-1].update < QUICK["classification"][0].updates
    assert run.best is run.history[-1]
    assert (run.best.train_score, run.best.test_score) == (1, 1)
    run = train_run(RunOptions("rendering", "conv", "uniform", **{**SMALL, "budget": 0.5}), tmp_path, CPU)
    assert run.history[-1].update < toy_training.RECIPES["rendering", "conv"].updates
    assert 0.5 <= run.seconds < 5


def test_best_is_the_best_test_score_of_all_evaluations(tmp_path):
    run = quick_run("rendering", tmp_path, arch="conv", recipe=Recipe(0.005, 32, 150, 10))
    best = max(evaluation.test_score for evaluation in run.history)
    assert len(run.history) == 15
    assert run.best.test_score == best
    assert run.predictions.shape == (3, 16, 16)
