"""Faults in the middle of a real training are one line, and nothing that was saved is lost."""

from __future__ import annotations

import itertools
import math
import resource
from pathlib import Path

import pytest
import torch
from small_runs import SMALL

from rl_coordconv.algorithms import PPO
from rl_coordconv.runs.checkpoints import load_parameters, newest_intact
from rl_coordconv.runs.folder import RunFolder

OPTIONS = [*SMALL, "--checkpoint-freq", "64"]


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "ppo" / "Freeway" / "coordconv" / "seed1")


def one_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


@pytest.mark.parametrize("steps", [64, 640], ids=["in the last update", "earlier"])
def test_loss_that_is_not_finite_names_the_update(steps, script, run, capsys):
    args = [
        "--ppo.learning_rate",
        "1e30",
        "--ppo.max_grad_norm",
        "1e30",
        "--ppo.learning_rate_schedule",
        "constant",
    ]
    assert script("train", *OPTIONS, *args, "--total-timesteps", steps) == 2
    line = one_line(capsys)
    progress = run.read_progress()
    assert (progress.state, progress.cause) == ("diverged", "loss")
    assert f"error: {progress.exit_reason}" == line
    assert "update " in line
    assert "Lower ppo.learning_rate or ppo.max_grad_norm" in line
    assert not run.finished
    assert "there was no checkpoint yet" in line
    assert newest_intact(run.checkpoints) == (None, [])


def test_loss_that_is_not_finite_later_keeps_the_last_good_state(script, run, capsys, monkeypatch):
    updates = itertools.count(1)
    loss = PPO.loss

    def breaks_in_the_third(self, *args):
        found = loss(self, *args)
        return found._replace(loss=found.loss * (math.nan if next(updates) == 3 else 1.0))

    monkeypatch.setattr(PPO, "loss", breaks_in_the_third)
    assert script("train", *OPTIONS, "--total-timesteps", 256, "--checkpoint-freq", 64) == 2
    line = one_line(capsys)
    checkpoint, damaged = newest_intact(run.checkpoints)
    assert damaged == []
    assert checkpoint is not None
    assert checkpoint.name in line
    weights = load_parameters(checkpoint, "cpu")["policy"].values()
    assert all(torch.isfinite(weight).all() for weight in weights)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_full_disk_is_one_line_and_resume_goes_on(script, run, capsys, tmp_path, monkeypatch):
    """The kernel itself says that the disk is full, while the last model is saved."""
    from rl_coordconv.runs import train as module

    created = RunFolder.create

    def create(self, config, command):
        created(self, config, command)
        self.final_model.with_name(".final_model.tmp.zip").symlink_to("/dev/full")

    monkeypatch.setattr(module.RunFolder, "create", create)
    assert script("train", *OPTIONS, "--total-timesteps", 256) == 2
    line = one_line(capsys)
    assert "the disk is full: free some space" in line
    assert (run.read_progress().state, run.read_progress().cause) == ("failed", "storage")
    assert f"--resume {run.path.relative_to(tmp_path)}" in line
    assert script("train", "--resume", run.path) == 0
    assert run.finished


def test_out_of_memory_says_what_to_lower(script, capsys, monkeypatch):
    """A real allocation that this process may not make."""
    from rl_coordconv.runs import train as module

    class Greedy(module.FiniteLoss):
        def _on_rollout_start(self) -> None:
            torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(module, "FiniteLoss", Greedy)
    assert script("train", *OPTIONS, "--total-timesteps", 256) == 2
    assert "out of memory: lower n_envs or ppo.batch_size" in one_line(capsys)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("features-dim", 2_000_000_000),
        ("ppo.n_steps", 32 * 10**7),
    ],
)
def test_what_is_larger_than_memory_is_one_line_and_leaves_nothing(option, value, script, capsys, tmp_path):
    assert script("train", *OPTIONS, f"--{option}", value) == 2
    error = one_line(capsys)
    assert "out of memory before the first step: lower" in error
    assert option.replace("-", "_") in error
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_saved_whatever_the_loss(script, run, capsys, monkeypatch):
    """Losses are computed before the step of the optimizer that ruins the weights."""
    from rl_coordconv.algorithms.on_policy import FastOnPolicyAlgorithm

    descend, calls = FastOnPolicyAlgorithm.descend, []

    def ruin(self, loss):
        descend(self, loss)
        calls.append(loss)
        if len(calls) == 4:  # the last of the second update
            next(self.policy.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(FastOnPolicyAlgorithm, "descend", ruin)
    assert script("train", *OPTIONS, "--keep-checkpoints", 1, "--total-timesteps", 256) == 2
    assert "is not finite" in one_line(capsys)
    assert run.read_progress().cause == "loss"
    checkpoint, _ = newest_intact(run.checkpoints)
    assert checkpoint.name.startswith("step_000000064")
    assert all(weight.isfinite().all() for weight in load_parameters(checkpoint, "cpu")["policy"].values())


def test_full_disk_from_the_first_write_on_is_one_line(script, run, capsys):
    """A limit below what the event file takes, while training and again when it is resumed."""
    assert script("train", *OPTIONS, "--total-timesteps", 128) == 0
    run.final_model.unlink()
    for path in run.checkpoints.iterdir():
        path.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        assert script("train", "--resume", run.path) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot write" in one_line(capsys)
    assert script("train", "--resume", run.path) == 0


def test_folder_that_cannot_be_written_is_one_line_and_leaves_nothing(script, capsys, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert script("train", *OPTIONS, "--output", tmp_path / "file") == 2
    assert "cannot be made" in one_line(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_file_size_limit_while_saving_keeps_the_checkpoints_before(script, run, capsys):
    """A limit of the operating system stands for a quota: saving fails, what was saved stays intact."""
    assert script("train", *OPTIONS, "--total-timesteps", 128) == 0
    run.final_model.unlink()
    max(run.checkpoints.glob("*.zip")).unlink()
    size = next(run.checkpoints.glob("*.zip")).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = newest_intact(run.checkpoints)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        assert script("train", "--resume", run.path) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot write" in one_line(capsys)
    assert newest_intact(run.checkpoints) == kept
    assert not [*run.path.rglob("*.tmp*")]
