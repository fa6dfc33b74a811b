"""What auto chose is kept: by a resume, and by every run of an experiment on the same kind of machine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import rl_coordconv.algorithms.on_policy as on_policy
import rl_coordconv.runs.train as runs
from rl_coordconv.algorithms.probe import Ratio
from rl_coordconv.compare.read import read_machine
from rl_coordconv.config import RunConfig, parse_config
from rl_coordconv.files import read_json
from rl_coordconv.machine import describe
from rl_coordconv.runs import decisions
from rl_coordconv.runs.train import resume, train

SMALL = "--game Breakout --n-envs 2 --features-dim 8 --total-timesteps 64 --eval-freq 0 --eval-episodes 1"
SIZE = (
    "--ppo.n_steps 16 --ppo.batch_size 32 --ppo.n_epochs 1 --max-frames 400 --precision auto --compile auto "
    "--device cpu"
)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return parse_config([*SMALL.split(), *SIZE.split(), "--output", str(tmp_path)])


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Ratios that probes will find; they are used up one by one."""
    ratios: list[float] = []
    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "")
    monkeypatch.setattr(on_policy, "probe", lambda *args: Ratio(ratios.pop(0), (2.0, 1.0)))
    return ratios


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that runs build, in turn."""
    models: list[Any] = []
    build = runs.build
    monkeypatch.setattr(runs, "build", lambda *args: models.append(build(*args)) or models[-1])
    return models


def test_one_probe_decides_for_all_runs_and_a_resume_keeps_it(
    config: RunConfig, probes: list[float], built: list[Any]
) -> None:
    probes += [1.5]
    first = train(config)
    train(dataclasses.replace(config, extractor="cnn", arm="cnn"))
    written = json.loads((first.path / "decisions.json").read_text())
    assert written["precision"]["choice"] == "bf16"
    assert written["precision"]["measured"] == {"ratio": 1.5, "milliseconds": [2.0, 1.0]}
    assert written["compile"]["choice"] is False
    assert json.loads((first.path.parents[1] / "cnn" / "seed1" / "decisions.json").read_text()) == written
    (kind,) = json.loads((first.path.parents[2] / "decisions.json").read_text())
    assert describe()["cpu"] in kind
    assert first.load_config().precision == "auto", "another machine decides for itself"
    first.final_model.unlink()
    (first.path.parents[2] / "decisions.json").unlink()
    resumed = resume(first.path)
    assert [model.precision for model in built] == ["bf16", "bf16", "bf16"]
    assert not probes
    assert resumed.final_model.is_file()
    assert json.loads((resumed.path / "decisions.json").read_text()) == written


@pytest.mark.parametrize("told_first", [False, True])
def test_what_a_run_was_told_decides_for_no_other(
    config: RunConfig, probes: list[float], told_first: bool
) -> None:
    """Nor is it told what others decided: its folder says what it was trained with."""
    probes += [1.0]
    told = dataclasses.replace(config, precision="bf16", seed=2)
    runs = [train(run) for run in ((told, config) if told_first else (config, told))]
    by_seed = {run.load_config().seed: decisions.of_run(run.path) for run in runs}
    assert by_seed[1]["precision"]["choice"] == "fp32"
    assert by_seed[2]["precision"] == {"choice": "bf16", "reason": "as asked for", "measured": None}
    assert by_seed[1]["compile"] == by_seed[2]["compile"]
    assert not probes


def test_another_kind_of_machine_decides_anew(
    config: RunConfig, probes: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    probes += [1.5, 1.0]
    train(config)
    monkeypatch.setattr(decisions.machine, "describe", lambda device: {"cpu": "an older one"})
    folder = train(dataclasses.replace(config, seed=2))
    assert decisions.of_run(folder.path)["precision"]["choice"] == "fp32"
    assert len(read_json(folder.path.parents[2] / "decisions.json")) == 2


@pytest.mark.parametrize("text", ["{", '{"%s": {"precision": {}}}', '{"%s": []}'])
def test_damaged_decisions_are_made_anew(config: RunConfig, probes: list[float], text: str) -> None:
    probes += [1.0]
    shared = config.folder.parents[2] / "decisions.json"
    shared.parent.mkdir()
    shared.write_text(text.replace("%s", decisions.machine_kind(config)))
    folder = train(config)
    assert decisions.of_run(folder.path)["precision"]["measured"]["ratio"] == 1.0
    assert len(read_json(shared)) == 1


def test_what_cannot_be_had_is_recorded_as_it_came_to_be_and_kept(
    config: RunConfig, probes: list[float], built: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    probes += [0.5]
    asked = dataclasses.replace(config, precision="bf16", compile=False)
    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "no such units")
    with pytest.warns(UserWarning, match="no such units"):
        folder = train(asked)
    assert read_machine(folder, asked.to_dict())["precision"] == "fp32"
    assert not (folder.path.parents[2] / "decisions.json").exists()
    folder.final_model.unlink()
    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "")  # resumed where there are such units
    resume(folder.path)
    assert [model.precision for model in built] == ["fp32", "fp32"]


def test_an_arm_that_has_no_such_switch_is_not_told_what_others_decided(
    config: RunConfig, probes: list[float], built: list[Any]
) -> None:
    probes += [1.5]
    train(config)
    train(dataclasses.replace(config, buffer="host", arm="host"))
    assert [model.precision for model in built] == ["bf16", "fp32"]


def test_what_a_resume_cannot_have_any_more_is_recorded(
    config: RunConfig, probes: list[float], built: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    probes += [1.5, 0.5]
    folder = train(config)
    folder.final_model.unlink()
    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "no such units")
    with pytest.warns(UserWarning, match="no such units"):
        resume(folder.path)
    assert [model.precision for model in built] == ["bf16", "fp32"]
    found = decisions.of_run(folder.path)["precision"]
    assert found["choice"] == "fp32"
    assert found["reason"].endswith("; bf16 until step 64")


def test_a_config_without_auto_leaves_no_decisions(config: RunConfig) -> None:
    folder = train(dataclasses.replace(config, precision="fp32", compile=False))
    assert not (folder.path / "decisions.json").exists()
    assert not (folder.path.parents[2] / "decisions.json").exists()
