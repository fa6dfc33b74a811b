"""Real training runs: every algorithm and extractor, read back from disk; stop, resume, damage."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3
from small_runs import SMALL, wait_for

from rl_coordconv.config import RunConfig
from rl_coordconv.errors import UserError
from rl_coordconv.runs.agent import find_run, load_run
from rl_coordconv.runs.checkpoints import list_checkpoints, newest_intact
from rl_coordconv.runs.evaluation import EVAL_SEED, make_eval_env, play_games
from rl_coordconv.runs.folder import RunFolder
from rl_coordconv.runs.train import resume

ROOT = Path(__file__).parents[2]


def run_folder(folder: Path, algo: str = "ppo", arm: str = "coordconv", game: str = "Freeway") -> RunFolder:
    return RunFolder(folder / "runs" / algo / game / arm / "seed1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algo", "extractor"),
    [("ppo", "cnn"), ("a2c", "coordconv"), ("ppo", "coordconv-nature-pool"), ("a2c", "impala-pool")],
)
def test_run_of_each_algorithm_and_extractor_fills_its_folder(algo, extractor, script, curves, tmp_path):
    # A2C logs every 100 updates of n_steps 5 x 2 environments.
    steps = 1024
    assert script("train", *SMALL, "--algo", algo, "--extractor", extractor, "--total-timesteps", steps) == 0
    run = run_folder(tmp_path, algo, extractor)
    scalars = curves(run.path)
    losses = {"ppo": "train/policy_gradient_loss", "a2c": "train/policy_loss"}
    assert {"time/fps", "eval/mean_reward", "eval/mean_ep_length", losses[algo], "train/value_loss"} <= set(
        scalars
    )
    ratios = {tag: values for tag, values in scalars.items() if tag.endswith("/coord_weight_ratio")}
    if "coordconv" in extractor:
        [(tag, values)] = ratios.items()
        assert tag.startswith("coordconv/")
        assert 0 <= values[0][1] <= values[-1][1] < 1
        assert values[-1][1] > 0
    else:
        assert not ratios
    names = {path.name for path in run.path.iterdir()}
    assert {"README.md", "config.yaml", "command.txt", "versions.json", "monitor.csv", "checkpoints"} <= names
    assert {"progress.json", "best_model.zip", "final_model.zip", "evaluations.jsonl"} <= names
    assert not [path for path in run.path.rglob("*") if ".tmp" in path.name]
    assert json.loads((run.path / "versions.json").read_text())["stable-baselines3"]
    assert run.load_config().extractor == extractor
    progress = run.read_progress()
    assert (progress.state, progress.attempts, progress.cause) == ("finished", 1, "")
    assert progress.steps >= steps
    assert progress.steps_per_second > 0
    [record] = run.read_evaluations()
    assert record["step"] >= steps
    assert len(record["returns"]) == 1


@pytest.mark.slow
def test_curves_hold_raw_returns_of_full_games_and_hyperparameters(script, curves, tmp_path):
    # Freeway's games last longer than that whatever one does: 1,000 steps less the no-ops.
    args = ["--max-frames", 4_000, "--total-timesteps", 2304, "--eval-freq", 1152]
    assert script("train", *SMALL, *args) == 0
    run = run_folder(tmp_path)
    scalars = curves(run.path)
    steps, returns = run.read_games()
    assert len(steps) == 2
    assert scalars["rollout/ep_rew_mean"][-1][1] == pytest.approx(returns.mean())
    assert scalars["rollout/ep_len_mean"][-1][1] > 950
    assert [step for step, _ in scalars["eval/mean_reward"]] == [1152, 2304]
    for tag, values in scalars.items():
        assert [step for step, _ in values] == sorted({step for step, _ in values}), tag
    hparams = next(iter((run.path).glob("events*"))).read_bytes()
    assert b"_hparams_/session_start_info" in hparams
    header = run.monitor.read_text().splitlines()
    assert header[0].startswith("#{")
    assert header[1] == "r,l,t,step"


def test_the_final_evaluation_has_its_own_number_of_games(script, tmp_path):
    args = ["--total-timesteps", 128, "--eval-freq", 64, "--final-eval-episodes", 3]
    assert script("train", *SMALL, *args) == 0
    evaluations = run_folder(tmp_path).read_evaluations()
    assert [(found["step"], len(found["returns"])) for found in evaluations] == [(64, 1), (128, 3)]


@pytest.mark.slow
def test_saved_agent_plays_as_stock_sb3_loads_it(script, tmp_path):
    assert script("train", *SMALL, "--total-timesteps", 128) == 0
    run = run_folder(tmp_path)
    model, config = load_run(*find_run(run.path), "cpu")
    stock = stable_baselines3.PPO.load(run.final_model, device="cpu")
    env = make_eval_env(config, 2)
    observation = env.reset()
    assert np.array_equal(
        model.predict(observation, deterministic=True)[0], stock.predict(observation, deterministic=True)[0]
    )
    first = play_games(model, env, 2, EVAL_SEED)
    env.close()
    env = make_eval_env(config, 2)
    assert play_games(model, env, 2, EVAL_SEED) == first
    env.close()


@pytest.mark.slow
def test_signal_saves_and_resume_finishes_one_unbroken_curve(curves, tmp_path, script):
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *SMALL, "--total-timesteps", "2560"]
    process = subprocess.Popen(
        [*command, "--checkpoint-freq", "256"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    run = run_folder(tmp_path)
    wait_for(lambda: list_checkpoints(run.checkpoints))
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--resume {Path('runs/ppo/Freeway/coordconv/seed1')}" in error
    stopped_at = list_checkpoints(run.checkpoints)[0].name
    assert not run.finished
    progress = run.read_progress()
    assert (progress.state, progress.cause, progress.attempts) == ("stopped", "signal", 1)
    assert progress.steps == int(stopped_at.split("_")[1])

    assert script("train", "--resume", run.path) == 0
    assert run.finished
    assert (run.read_progress().state, run.read_progress().attempts) == ("finished", 2)
    assert list_checkpoints(run.checkpoints)[0].name > stopped_at
    steps = [step for step, _ in curves(run.path)["time/fps"]]
    assert steps == list(range(64, 2560 + 1, 64))
    games, _ = run.read_games()
    assert list(games) == sorted(games)


def test_only_the_newest_checkpoints_stay_and_are_sb3_zips(finished_run):
    checkpoints = list_checkpoints(finished_run.checkpoints)
    assert [int(path.name.split("_")[1]) for path in checkpoints] == [256, 192, 128]
    model = stable_baselines3.PPO.load(checkpoints[0], device="cpu")
    assert model.num_timesteps == 256


def test_damaged_checkpoint_is_always_seen(finished_run, tmp_path):
    source = list_checkpoints(finished_run.checkpoints)[0]
    data = source.read_bytes()
    generator = random.Random(0)
    path = tmp_path / source.name
    for _ in range(200):
        place = generator.randrange(len(data))
        cut = data[:place] if generator.random() < 0.5 else flip(data, place, generator.randrange(8))
        path.write_bytes(cut)
        assert newest_intact(tmp_path) == (None, [path])
    path.write_bytes(data)
    assert newest_intact(tmp_path) == (path, [])


def test_a_damaged_newest_checkpoint_costs_no_later_one_and_steps_are_numbers(finished_run, tmp_path):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(finished_run.path, run.path)
    run.final_model.unlink()
    newest = list_checkpoints(run.checkpoints)[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("keep_checkpoints: 3", "keep_checkpoints: 1"))
    resume(run.path)
    [kept] = list_checkpoints(run.checkpoints)
    assert newest_intact(run.checkpoints) == (kept, [])
    assert newest.with_suffix(".damaged").is_file()
    for name in ("step_1000000100_sha256_0123456789abcdef.zip", "step_999999000_sha256_0123456789abcdef.zip"):
        (tmp_path / name).write_bytes(b"")
    assert list_checkpoints(tmp_path)[0].name.startswith("step_1000000100")


def flip(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def test_damaged_model_is_one_line(finished_run, script, capsys):
    for name, text in (("cut.zip", finished_run.final_model.read_bytes()[:1000]), ("empty.zip", b"")):
        bad = finished_run.path / name
        bad.write_bytes(text)
        assert script("evaluate", bad) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{name}' is damaged" in error
        bad.unlink()


def test_zip_of_another_network_is_one_line(finished_run, script, capsys):
    empty = finished_run.path / "empty.zip"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("data", "{}")
    assert script("evaluate", empty) == 2
    assert "holds no policy.pth" in capsys.readouterr().err
    empty.unlink()


@pytest.mark.parametrize("words", [[], ["--deterministic"]])
def test_actions_are_sampled_unless_the_likeliest_are_asked_for(finished_run, script, monkeypatch, words):
    asked = []

    def play(model, env, n_games, seed, deterministic, callback):
        asked.append(deterministic)
        return [1.0] * n_games, [1] * n_games

    monkeypatch.setattr("rl_coordconv.runs.evaluation.play_games", play)
    assert script("evaluate", finished_run.path, "--games", 1, "--json", "e.json", *words) == 0
    assert asked == [bool(words)]


def test_second_process_on_a_run_folder_is_refused(finished_run):
    with (
        finished_run.lock(),
        pytest.raises(UserError, match="in use by another process"),
        finished_run.lock(),
    ):
        pass


def test_evaluate_prints_a_table_and_writes_json_and_videos(finished_run, script, capsys, tmp_path):
    args = ["--games", "2", "--json", "e.json", "--gif", "a.gif", "--mp4", "a.mp4", "--max-steps", "30"]
    assert script("evaluate", finished_run.path, *args) == 0
    output = capsys.readouterr().out
    assert "IQM" in output
    result = json.loads((tmp_path / "e.json").read_text())
    assert len(result["returns"]) == 2
    assert result["mean"] == pytest.approx(np.mean(result["returns"]))
    assert result["min"] <= result["iqm"] <= result["max"]
    import imageio.v3 as imageio

    for name in ("a.gif", "a.mp4"):
        frames = imageio.imread(tmp_path / name)
        assert frames.shape[0] == 30
        assert frames.shape[1:] == (210, 160, 3)
        assert frames.std() > 10
        assert not np.array_equal(frames[0], frames[-1])


def test_foreign_zip_needs_trust(finished_run, script, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(RunConfig, "game_options", {"max_frames": 400, "num_threads": 1})  # not whole games
    foreign = tmp_path / "foreign.zip"
    foreign.write_bytes(finished_run.final_model.read_bytes())
    assert script("evaluate", foreign) == 2
    assert "--trust" in capsys.readouterr().err
    args = ("--trust", "--algo", "ppo", "--game", "freeway", "--games", 1)
    assert script("evaluate", foreign, *args) == 0
    assert list(tmp_path.iterdir()) == [foreign], "it is in no run folder"
    assert script("evaluate", foreign, *args, "--json", "e.json") == 0
    assert (tmp_path / "e.json").is_file()


def test_the_result_goes_into_the_run_folder_whichever_agent_of_it_plays(finished_run, script, tmp_path):
    run = RunFolder(shutil.copytree(finished_run.path, tmp_path / "run"))
    checkpoint = list_checkpoints(run.checkpoints)[0]
    assert script("evaluate", checkpoint, "--games", 1) == 0
    assert json.loads((run.path / "evaluation.json").read_text())["agent"].endswith(checkpoint.name)
    assert not (run.checkpoints / "evaluation.json").exists()


def test_a_run_folder_that_takes_no_result_is_one_line_before_a_game(finished_run, script, capsys, tmp_path):
    run = RunFolder(shutil.copytree(finished_run.path, tmp_path / "run"))
    (run.path / "evaluation.json").mkdir()
    assert script("evaluate", run.path, "--games", 1) == 2
    captured = capsys.readouterr()
    assert "is a folder" in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere"], "'nowhere' does not exist"),
        ([], "agent"),
        ([".", "--games", "0"], "games is 0"),
        ([".", "--seed", "99999999999999999999999"], "it must be below 2**31"),
        ([".", "--seed", "-1"], "seed is -1: it must be 0 or more"),
        (
            [".", "--coord_scale", "wind"],
            "must be float or one of window, root or null (did you mean 'window'?)",
        ),
        (["."], "is not a run folder"),
        ([".", "--gif", "a.mp4"], "must end in .gif"),
        ([".", "--mp4", "no/where.mp4"], "does not exist"),
        ([".", "--device", "cuda:9"], "is not there"),
    ],
)
def test_bad_evaluate_input_is_one_line(args, says, refused):
    assert says in refused("evaluate", *args)


@pytest.mark.parametrize(
    "args",
    [
        ["--resume"],
        ["--resume="],
        ["--resume", "run", "--seed", "2"],
        ["--seed", "2", "--resume", "run"],
        ["--seed=2", "--resume=run"],
        ["run", "--resume"],
    ],
)
def test_resume_beside_other_options_says_what_is_allowed(args, refused):
    assert refused("train", *args).startswith("error: --resume takes one run folder and no other option")


def test_a_name_that_the_disk_cannot_have_is_one_line(refused):
    assert "the name is too long" in refused("train", "--config", "x" * 300)
