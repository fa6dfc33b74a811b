"""What the README tells people to type runs: every command and snippet in it, made small."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_runs import SMALL as SMALL_RUN
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.config import RunConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

SMALL_TRAINING = [*SMALL_RUN[2:], "--total-timesteps", "64"]  # whatever the game
SMALL = {
    "train": SMALL_TRAINING,
    "evaluate": ["--games", "1"],
    "toy": ["--canvas", "16", "--square", "3", "--budget", "0.2"],
    "tasks locate": shlex.split("--canvas 40 --square 3 --updates 2 --batch-size 4"),
    "tasks point": shlex.split(
        "--canvas 40 --square 3 --total-timesteps 8 --n-envs 4 --n-steps 2 --batch-size 4"
    ),
    "tasks gan": shlex.split("--seeds=[1] --steps 4 --image-size 16 --images 256 --eval-images 64"),
    "tasks detect": shlex.split(
        "--seeds=[1] --per-canvas 2 --train-canvases 4 --test-canvases 2 --epochs 1 --canvas-size 40"
    ),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """The words of each command, without comments."""
    lines = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    return [words for words in lines if words]


def test_every_command_is_of_a_kind_that_is_run_somewhere() -> None:
    """``make`` is run by CI and when the demo is tested; TensorBoard is somebody else's."""
    starts = {words[0] for words in commands()}
    assert starts <= {"make", "python", "tensorboard"}
    assert {tuple(words) for words in commands() if words[0] == "make"} == {
        ("make", "demo"),
        ("make", "test"),
    }


def shrink(file: Path) -> None:
    """Make a comparison's runs as small as the others here, and one per arm."""
    values = yaml.safe_load(file.read_text())
    values |= {"games": values["games"][:1], "seeds": values["seeds"][:1]}
    values["common"] |= {"total_timesteps": 256, "n_envs": 2, "final_eval_episodes": 1}
    values["common"] |= {"features_dim": 16, "max_frames": 400}
    values["common"]["ppo"] = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    file.write_text(yaml.safe_dump(values))


@pytest.mark.slow
def test_every_command_runs(script, tmp_path, monkeypatch) -> None:
    """In the order of the README, as one evaluates what another has trained."""
    # A game of the agents that are shipped takes minutes.
    monkeypatch.setattr(RunConfig, "game_options", {"max_frames": 400, "num_threads": 1})
    for folder in ("configs", "agents"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shrink(tmp_path / "configs" / "compare" / "smoke.yaml")
    for _, path, *args in [words for words in commands() if words[0] == "python"]:
        name = Path(path).stem
        kind = f"{name} {args[0]}" if name == "tasks" else name
        small = [] if "--resume" in args else SMALL.get(kind, [])
        assert script(name, *args, *small) == 0, args
    pictures = {path.name for path in tmp_path.rglob("*") if path.suffix in (".gif", ".png")}
    assert {"agent.gif", "shifts.png", "figure.png"} <= pictures
    drawn = {path.relative_to(tmp_path / "runs").parts[0] for path in tmp_path.rglob("figure.png")}
    assert {"toy", "locate", "point", "gan", "detection"} <= drawn
    assert (tmp_path / "runs" / "smoke" / "report.html").exists()


@pytest.mark.slow
def test_snippet_trains(tmp_path) -> None:
    [snippet] = blocks("python")
    snippet += "\nassert model.num_timesteps == 1_024\nprint(type(model.policy.features_extractor).__name__)"
    small = snippet.replace("n_steps=128", "n_steps=128, batch_size=256, n_epochs=1")
    done = subprocess.run(
        [sys.executable, "-c", small], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "CoordConvNatureCNN"


def test_rl_zoo_line_names_our_extractor(breakout: VecEnv) -> None:
    """RL Zoo evaluates the string as Python."""
    from stable_baselines3 import PPO

    from rl_coordconv import CoordConvNatureCNN

    [block] = blocks("yaml")
    policy_kwargs = eval(yaml.safe_load(block)["policy_kwargs"])
    model = PPO("CnnPolicy", breakout, n_steps=32, batch_size=32, policy_kwargs=policy_kwargs)
    assert isinstance(model.policy.features_extractor, CoordConvNatureCNN)


@pytest.fixture
def breakout():
    from rl_coordconv import make_atari_vec_env

    env = make_atari_vec_env("Breakout", n_envs=2, seed=1)
    yield env
    env.close()


def test_pictures_and_files_it_links_to_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_demo_trains_both_arms_reports_and_films_one(script, capsys, tmp_path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shrink(tmp_path / "configs" / "compare" / "demo.yaml")
    recipe = (ROOT / "Makefile").read_text().partition("\ndemo:")[2].partition("\n\n")[0].splitlines()[1:]
    for _ in ("trains", "started again, it has nothing to train"):
        for line in recipe:
            python, path, *args = line.split()
            assert python == "$(BIN)/python"
            assert script(Path(path).stem, *args) == 0, line
    experiment = tmp_path / "runs" / "demo"
    assert {"report.html", "coordconv.gif"} <= {path.name for path in experiment.iterdir()}
    for arm in ("cnn", "coordconv"):
        assert (experiment / "KungFuMaster" / arm / "seed1" / "final_model.zip").exists()
    printed = capsys.readouterr().out
    assert "KungFuMaster: coordconv is not distinguishable from cnn" in printed
    assert "tensorboard --logdir runs/demo" in printed
