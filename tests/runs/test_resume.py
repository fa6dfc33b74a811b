"""Stopped and resumed training is the training that was never stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO

from rl_coordconv.config import parse_config
from rl_coordconv.envs import make_atari_vec_env
from rl_coordconv.envs.batched import BatchedAtariVecEnv
from rl_coordconv.hyperparameters import ALGORITHMS
from rl_coordconv.runs import callbacks, evaluation
from rl_coordconv.runs.callbacks import EpisodeLog, Interrupted
from rl_coordconv.runs.checkpoints import list_checkpoints, load_parameters, newest_intact, save_checkpoint
from rl_coordconv.runs.evaluation import play_games
from rl_coordconv.runs.folder import RunFolder
from rl_coordconv.runs.train import resume, train

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"
STEPS = 768
KILLS = 2
OPTIONS = [
    *("--game", "Breakout", "--n-envs", "4", "--device", "cpu", "--features-dim", "16"),
    *("--eval-freq", "0", "--eval-episodes", "1", "--total-timesteps", str(STEPS)),
    *("--ppo.n_steps", "32", "--ppo.batch_size", "64", "--ppo.n_epochs", "2", "--max-frames", "2000"),
]


def test_a_run_of_version_0_1_0_goes_on(tmp_path):
    sample = Path(__file__).parents[1] / "data" / "v1" / "comparison" / "Breakout" / "coordconv" / "seed1"
    shutil.copytree(sample, tmp_path / "run")
    [checkpoint] = list_checkpoints(tmp_path / "run" / "checkpoints")
    old = load_parameters(checkpoint, "cpu")["policy.optimizer"]
    run = resume(tmp_path / "run")
    assert run.finished
    new = load_parameters(run.final_model, "cpu")["policy.optimizer"]
    # The one weight per CoordConv layer has become two; the steps that the optimizer counts went on.
    assert len(new["state"]) == len(old["state"]) + 1
    assert {values["step"] for values in new["state"].values()} == {2 * old["state"][0]["step"]}


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", "a2c"])
@pytest.mark.parametrize("buffer", ["device", "host"])
def test_resumed_weights_and_curves_equal_those_of_an_unbroken_run_to_the_bit(
    algo, buffer, tmp_path, monkeypatch, curves
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ALGORITHMS, algo, dataclasses.replace(ALGORITHMS[algo], log_interval=3))
    monkeypatch.setattr(callbacks, "COORDINATE_POINTS", 3)
    args = f"--backend gymnasium --algo {algo} --buffer {buffer} --checkpoint-freq {STEPS // 2}".split()
    config = parse_config([*OPTIONS, *args, "--keep-checkpoints", "9"])
    unbroken = train(dataclasses.replace(config, name="unbroken").validate())
    broken = RunFolder("runs/broken/Breakout/coordconv/seed1")
    broken.create(dataclasses.replace(config, name="broken").validate())
    half = list_checkpoints(unbroken.checkpoints)[-1]
    (broken.checkpoints / half.name).write_bytes(half.read_bytes())
    shutil.copy(unbroken.coordinates, broken.coordinates)
    torch.manual_seed(99)  # what a new process would have
    resume(broken.path)
    assert broken.coordinates.read_text() == unbroken.coordinates.read_text()
    assert len(broken.read_coordinates()["cnn.0"][0]) > 1
    expected, found = (load_parameters(run.final_model, "cpu") for run in (unbroken, broken))
    assert expected["policy"].keys() == found["policy"].keys()
    for name, weight in expected["policy"].items():
        assert torch.equal(weight, found["policy"][name]), name
    whole, part = curves(unbroken.path), curves(broken.path)
    assert whole.keys() == part.keys()
    begun = int(half.name.split("_")[1])
    points = {tag: [point for point in line if point[0] > begun] for tag, line in whole.items()}
    assert points["train/value_loss"]
    assert all(points[tag] == line for tag, line in part.items() if not tag.startswith("time/"))
    assert not torch.equal(
        expected["policy"]["action_net.weight"], load_parameters(half, "cpu")["policy"]["action_net.weight"]
    )


@pytest.mark.parametrize(
    ("moment", "step"), [("rollout", 256), ("evaluation", 128), ("evaluation", 256)], ids=str
)
def test_a_signal_in_the_last_rollout_or_an_evaluation_loses_no_step(moment, step, tmp_path, monkeypatch):
    words = [
        "--backend",
        "gymnasium",
        "--eval-freq",
        "128",
        "--total-timesteps",
        "256",
        "--max-frames",
        "400",
    ]
    config = parse_config([*OPTIONS, *words, "--output", str(tmp_path)])
    unbroken = train(dataclasses.replace(config, name="unbroken").validate())

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupt():
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL, "Ctrl-C ends it at once"
        signal.raise_signal(signal.SIGTERM)  # as a comparison may, after its supervisor: nothing is lost

    def end_of_rollout(self):
        if self.num_timesteps == step:
            interrupt()

    def play(model, *args, **kwargs):
        if model.num_timesteps == step:
            interrupt()
        return play_games(model, *args, **kwargs)

    with monkeypatch.context() as patch:
        if moment == "rollout":
            patch.setattr(EpisodeLog, "_on_rollout_end", end_of_rollout)
        else:
            patch.setattr(evaluation, "play_games", play)
        with pytest.raises(Interrupted):
            train(dataclasses.replace(config, name="broken").validate())
    broken = RunFolder(tmp_path / "broken" / "Breakout" / "coordconv" / "seed1")
    assert not broken.finished
    saved = [int(path.name.split("_")[1]) for path in list_checkpoints(broken.checkpoints)]
    assert saved[0] == step
    evaluated = {evaluation["step"] for evaluation in broken.read_evaluations()}
    assert evaluated <= {*saved}, "killed after an evaluation, the run goes on from there"
    assert (broken.read_progress().state, broken.read_progress().steps) == ("stopped", step)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    torch.manual_seed(99)  # what a new process would have
    resume(broken.path)
    assert broken.read_evaluations() == unbroken.read_evaluations()
    for name in ("final_model", "best_model"):
        expected, found = (load_parameters(getattr(run, name), "cpu")["policy"] for run in (unbroken, broken))
        assert all(torch.equal(weight, found[key]) for key, weight in expected.items()), name


def test_the_best_agent_is_there_where_only_its_evaluation_was_written(tmp_path, monkeypatch):
    """The process dies between the two, at the last step."""
    config = parse_config([*OPTIONS, "--total-timesteps", "128", "--output", str(tmp_path)])

    def die(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "save_model", die)
        with pytest.raises(Killed):
            train(config)
    run = RunFolder(config.folder)
    assert not run.best_model.exists()
    [record] = run.read_evaluations()
    resume(run.path)
    assert run.read_evaluations() == [record], "it is not played again"
    best, final = (load_parameters(path, "cpu")["policy"] for path in (run.best_model, run.final_model))
    assert all(torch.equal(weight, best[name]) for name, weight in final.items())


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, curves):
    """SIGKILL at random moments: every step is trained in the end, and the curve shows each once."""
    rng = random.Random(0)
    run = RunFolder(tmp_path / "runs" / "ppo" / "Freeway" / "coordconv" / "seed1")
    options = ["--game", "Freeway", *OPTIONS[2:], "--total-timesteps", "3840", "--checkpoint-freq", "128"]
    options += ["--ppo.n_epochs", "1"]
    start = [*options, "--keep-checkpoints", "3"]
    kills = 0
    while not run.finished:
        words = ["--resume", str(run.path)] if run.config_file.is_file() else start
        process = subprocess.Popen(
            [sys.executable, str(TRAIN), *words],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if kills < KILLS:
            had = newest(run)
            while process.poll() is None and newest(run) == had:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        paths = list_checkpoints(run.checkpoints)
        intact, damaged = newest_intact(run.checkpoints)
        assert damaged == []
        assert intact in paths
    assert kills == KILLS
    steps = [step for step, _ in curves(run.path)["time/fps"]]
    assert steps == list(range(128, 3840 + 1, 128))
    games, _ = run.read_games()
    assert list(games) == sorted(games)


def test_a_run_that_dies_at_any_sync_or_rename_goes_on(tmp_path, monkeypatch, curves):
    """From its folder to its last model: each attempt gets further, and the curve shows each step once."""
    words = [*OPTIONS, "--total-timesteps", "640", "--checkpoint-freq", "128", "--output", str(tmp_path)]
    config = parse_config([*words, "--max-frames", "80", "--ppo.n_epochs", "1"])
    run = RunFolder(config.folder)
    attempts = 0
    while not run.finished:
        attempts += 1
        with monkeypatch.context() as patch:
            Death(patch, ((os, "fsync"), (os, "replace")), attempts)
            with contextlib.suppress(Killed):
                resume(run.path) if run.config_file.is_file() else train(config)
        assert newest_intact(run.checkpoints)[1] == []
    assert attempts > 10
    steps = [step for step, _ in curves(run.path)["time/fps"]]
    assert steps == list(range(128, 640 + 1, 128))
    games, _ = run.read_games()
    assert len(games)
    assert list(games) == sorted(games)
    assert [record["step"] for record in run.read_evaluations()] == [640]


def newest(run: RunFolder) -> Path | None:
    return next(iter(list_checkpoints(run.checkpoints)), None)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the library catches it."""


class Death:
    """
    After so many calls of these functions the process is dead: none of them does anything any more.

    :param functions: Where each is, and its name; ``Path``'s own, as on Python 3.10 it keeps those of ``os``
    :param after: How many calls are survived
    """

    def __init__(self, patch: pytest.MonkeyPatch, functions: tuple[tuple[Any, str], ...], after: int) -> None:
        self.left = after
        for place, name in functions:
            patch.setattr(place, name, self._mortal(getattr(place, name)))

    def _mortal(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return real(*args, **kwargs)

        return call


def test_a_checkpoint_cut_off_at_any_point_leaves_an_intact_one(tmp_path, monkeypatch):
    """Before each sync, rename and removal of saving in turn, the process dies: no later one happens."""
    env = make_atari_vec_env("Breakout", 1, seed=1)
    small = {"features_extractor_kwargs": {"features_dim": 8}}
    model = PPO("CnnPolicy", env, n_steps=32, batch_size=32, policy_kwargs=small)
    model.learn(32)
    before = save_checkpoint(model, tmp_path, {}, keep=1)
    survived = 0
    while True:
        model.num_timesteps += 32
        with monkeypatch.context() as patch:
            death = Death(patch, ((os, "fsync"), (os, "replace"), (Path, "unlink")), survived)
            with contextlib.suppress(Killed):
                save_checkpoint(model, tmp_path, {}, keep=1)
        intact, damaged = newest_intact(tmp_path)
        assert damaged == []
        assert intact is not None
        assert intact >= before
        if death.left >= 0:
            break
        before, survived = intact, survived + 1
    env.close()
    assert survived >= 5
    assert [*tmp_path.iterdir()] == [intact]


def test_the_times_of_games_go_on_where_they_were(tmp_path):
    """SB3 sorts a Monitor file by them."""
    folder = RunFolder(tmp_path)
    assert folder.keep_games_until(0, "Breakout") == 0
    folder.append_games([({"r": 1.0, "l": 10, "t": 7.5}, 100), ({"r": 2.0, "l": 20, "t": 9.0}, 300)])
    assert folder.keep_games_until(200, "Breakout") == 7.5
    log = EpisodeLog(folder, parse_config(OPTIONS))
    log.model = SimpleNamespace(num_timesteps=200)
    log.num_timesteps = 200
    log._on_training_start()
    log.locals = {"infos": [{}, {"episode": {"r": 3.0, "l": 30, "t": 0.5}}]}
    log.num_timesteps = 250
    log._on_step()
    log._on_rollout_end()
    assert folder.monitor.read_text().splitlines()[2:] == ["1.0,10,7.5,100", "3.0,30,8.0,250"]


def test_a_resume_whose_games_are_over_begins_others_than_the_run_began_with(tmp_path, monkeypatch):
    given: list[int] = []
    config = parse_config([*OPTIONS, "--output", str(tmp_path)])
    folder = train(config)
    folder.final_model.unlink()
    seed = BatchedAtariVecEnv.seed
    monkeypatch.setattr(
        BatchedAtariVecEnv, "seed", lambda env, value: given.append(value) or seed(env, value)
    )
    resume(folder.path)
    assert given[-1] > 2**16, "neither the run's own, nor of its evaluations, nor of another run"
