"""How far optimizer steps go: the arms differ as the layer's docstring says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from rl_coordconv.compare.update_norms import UpdateNorms, measure, read_norms
from rl_coordconv.config import config_from_dict
from rl_coordconv.layers import CoordConv2d

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "update_norms"
CONFIG = ROOT / "configs" / "compare" / "coord_start.yaml"


@pytest.mark.parametrize("padding", [0, 2])
def test_norms_are_those_of_a_step_taken_by_hand(padding):
    torch.manual_seed(0)
    layer = CoordConv2d(1, 2, 8, 4, padding, coord_scale="window").double()
    callback = UpdateNorms(every=2, steps=0)
    callback.layer = layer
    callback.images = torch.rand(3, 1, 16, 20).double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    callback.model = type("Model", (), {"policy": type("Policy", (), {"optimizer": optimizer})})()
    optimizer.register_step_pre_hook(callback._before)
    optimizer.register_step_post_hook(callback._after)
    for _ in range(2):
        before = layer.positional_bias(16, 20).detach().clone()
        bias, output = layer.bias.detach().clone(), layer(callback.images)
        output.square().sum().backward()
        optimizer.step()
    [(update, norms)] = callback.norms
    assert update == 2
    change = layer.positional_bias(16, 20).detach() - before
    assert norms["coordinates"] == pytest.approx(float(change.square().mean().sqrt()) / 0.1)
    others = change + (layer.bias.detach() - bias)[:, None, None]
    image = layer(callback.images).detach() - output.detach() - others
    assert norms["image"] == pytest.approx(float(image.square().mean().sqrt()) / 0.1)


def test_a_literal_layer_moves_its_positional_bias_by_far_more_than_a_bias(script, tmp_path):
    matrix = tmp_path / "matrix.yaml"
    matrix.write_text(
        "games: [Breakout]\nseeds: [1]\ncommon: {algo: ppo, n_envs: 2, total_timesteps: 1000,"
        " ppo: {n_steps: 32, batch_size: 32, n_epochs: 2}}\n"
        "arms: {cnn: {extractor: cnn}, literal: {extractor: coordconv, coord_init: concat, coord_scale: 1.0},"
        " window: {extractor: coordconv}}\n"
    )
    assert script("update_norms", tmp_path / "out", "--configs", matrix, "--steps", 256) == 0
    norms = read_norms(tmp_path / "out")
    found = norms.groupby(["arm", "part"])["norm"].max()
    assert ("cnn", "coordinates") not in found
    assert found["literal", "coordinates"] > 5 * found["literal", "bias"]
    assert found["window", "coordinates"] < 2 * found["window", "bias"]
    assert (tmp_path / "out" / "update_norms.png").read_bytes().startswith(b"\x89PNG")


def test_the_documentation_s_figure_and_table_are_drawn_from_its_table(script, tmp_path):
    shutil.copy(RESULTS / "update_norms.csv", tmp_path)
    assert script("update_norms", tmp_path) == 0
    table = (tmp_path / "update_norms.md").read_text()
    assert table == (RESULTS / "update_norms.md").read_text()
    assert table in (RESULTS.parents[1] / "results.md").read_text()


def test_a_folder_without_the_table_is_one_line(script, capsys, tmp_path):
    assert script("update_norms", tmp_path / "nowhere") == 2
    assert "update_norms.csv' cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("args", [[], ["--configs", CONFIG]])
def test_a_folder_that_cannot_be_made_is_one_line_before_anything_is_trained(script, capsys, tmp_path, args):
    (tmp_path / "out").write_text("a file")
    assert script("update_norms", tmp_path / "out", *args) == 2
    assert "is not a folder that can be written to" in capsys.readouterr().err


def test_a_table_without_rows_is_one_line(script, capsys, tmp_path):
    (tmp_path / "update_norms.csv").write_text("algo,arm,update,part,norm\n")
    assert script("update_norms", tmp_path) == 2
    assert "it has no rows" in capsys.readouterr().err


def test_too_few_steps_are_one_line_and_leave_nothing(script, capsys, tmp_path):
    matrix = tmp_path / "matrix.yaml"
    matrix.write_text(
        "games: [Pong]\nseeds: [1]\ncommon: {algo: a2c, n_envs: 2}\narms: {cnn: {extractor: cnn}}\n"
    )
    assert script("update_norms", tmp_path / "out", "--configs", matrix, "--steps", 2) == 2
    assert "steps is 2: cnn took no optimizer step" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_measured_is_not_lost_with_a_later_arm(script, capsys, tmp_path):
    matrix = tmp_path / "matrix.yaml"
    common = "games: [Pong]\nseeds: [1]\ncommon: {algo: a2c, n_envs: 2, extractor: cnn}\n"
    matrix.write_text(f"{common}arms: {{one: {{}}, two: {{a2c: {{n_steps: 50}}}}}}\n")
    assert script("update_norms", tmp_path / "out", "--configs", matrix, "--steps", 20) == 2
    assert "two took no optimizer step" in capsys.readouterr().err
    assert set(read_norms(tmp_path / "out")["arm"]) == {"one"}


def test_two_ways_to_train_an_arm_of_one_name_are_one_line_and_leave_nothing(script, capsys, tmp_path):
    for name, rate in (("one", 1e-3), ("two", 1e-4)):
        text = f"games: [Pong]\nseeds: [1]\ncommon: {{algo: a2c, a2c: {{learning_rate: {rate}}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(f"{text}arms: {{cnn: {{extractor: cnn}}}}\n")
    files = tmp_path / "one.yaml", tmp_path / "two.yaml"
    assert script("update_norms", tmp_path / "out", "--configs", *files) == 2
    error = capsys.readouterr().err
    assert "two.yaml': a2c arm 'cnn' is trained with other options" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_plain_arm_has_no_coordinates_to_measure():
    norms = measure(
        config_from_dict({"game": "Pong", "algo": "a2c", "extractor": "cnn", "n_envs": 2}, "test"), steps=20
    )
    assert {norm.part for norm in norms} == {"image", "bias"}
