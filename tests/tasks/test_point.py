"""PPO agents that point at a square: environment, training, measurements, and what is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.env_checker import check_env

from rl_coordconv.tasks.experiment import Run
from rl_coordconv.tasks.locate.pointing import PointConfig, PointEnv
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr

SMALL = "--canvas 40 --square 3 --device cpu --total-timesteps 16 --n-envs 4 --n-steps 2 --batch-size 4"
DATA = NotSoClevr(40, 5)


def test_the_environment_keeps_to_gymnasiums_rules() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(PointEnv(DATA, DATA.centres))


@pytest.mark.parametrize(
    ("shift", "reward"), [((0, 0), 1.0), ((-12, 0), 0.4), ((12, 16), 0.0), ((0, 30), -0.5)]
)
def test_the_reward_falls_with_the_distance(shift: tuple[int, int], reward: float) -> None:
    centre = torch.tensor([[20, 8]])
    env = PointEnv(DATA, centre)
    image, _ = env.reset(seed=1)
    y, x = np.nonzero(image[0])
    assert (x.mean(), y.mean(), image.max(), len(x)) == (20, 8, 255, 25)
    _, given, terminated, truncated, _ = env.step(DATA.to_unit(centre + torch.tensor(shift))[0].numpy())
    assert given == pytest.approx(reward, abs=1e-6)
    assert terminated
    assert not truncated


def test_an_agent_is_shown_the_squares_of_its_split_alone_and_each_arm_the_same(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, ...]] = []
    reset = PointEnv.reset

    def noted(env: PointEnv, **kwargs: object) -> object:
        answer = reset(env, **kwargs)
        shown.append(tuple(env.centre[0].tolist()))
        return answer

    monkeypatch.setattr(PointEnv, "reset", noted)
    config = PointConfig(canvas=40, total_timesteps=64, n_envs=4, n_steps=8, batch_size=16)
    seen = []
    for arm in ("cnn", "coordconv-nature-pool"):
        shown.clear()
        config.train(make_run(arm))
        seen.append(list(shown))
    assert len(seen[0]) == 64 + 4  # each step ends an episode
    assert seen[0] == seen[1]
    assert {*seen[0]} <= {*map(tuple, DATA.split("quadrant", 1)[0].tolist())}
    shown.clear()
    config.train(make_run("cnn", seed=2))
    first, second = ({tuple(squares[env::4]) for env in range(4)} for squares in (seen[0], shown))
    assert len(first | second) == 8, "an environment of one run shows what one of another run does"


def test_an_experiment_fills_its_folder_and_is_drawn_again(
    script: Callable[..., int], tmp_path: Path, curves: Callable[[Path], dict[str, list[tuple[int, float]]]]
) -> None:
    arms = ["cnn", "pool-literal"]
    assert script("tasks", "point", *SMALL.split(), "--seeds", 1, "--extractors", *arms) == 0
    folder = tmp_path / "runs/point/quadrant"
    results = json.loads((folder / "results.json").read_text())
    for by_seed in results["runs"].values():
        assert 0 < by_seed["1"]["train_error"] < 40
        assert 0 < by_seed["1"]["test_error"] <= by_seed["1"]["test_worst"] < 80
    rewards = curves(folder / "cnn/seed1")["rollout/ep_rew_mean"]
    assert [step for step, _ in rewards] == [8, 16]
    assert all(-1 < reward < 1 for _, reward in rewards)
    assert script("tasks", "redraw", folder / "results.json") == 0
    assert (folder / "results.png").read_bytes() == (folder / "figure.png").read_bytes()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--extractors", "nature-pol"], "did you mean 'nature-pool'"),
        (["--batch-size", "100"], "batch_size is 100: it must be 2 or more and divide the 512 steps"),
        (["--n-envs", "1", "--n-steps", "1", "--batch-size", "1"], "batch_size is 1"),
        (["--total-timesteps", "0"], "total_timesteps is 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    args: list[str], words: str, refused: Callable[..., str]
) -> None:
    assert words in refused("tasks", "point", "--device", "cpu", *args)


def test_an_agent_that_diverges_is_one_line(
    script: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = PointEnv.step
    monkeypatch.setattr(
        PointEnv, "step", lambda env, action: (*step(env, action)[:1], np.nan, True, False, {})
    )
    assert script("tasks", "point", *SMALL.split(), "--seeds", 1, "--extractors", "cnn") == 2
    assert "cnn/seed1 diverged at step 8; lower the learning rate" in capsys.readouterr().err


@pytest.mark.slow
def test_a_pooled_agent_learns_to_point(make_run: Callable[..., Run]) -> None:
    config = PointConfig(canvas=40, square=5, total_timesteps=4096, split="uniform")
    errors = config.train(make_run("pool-literal")).numbers
    assert float(errors["train_error"]) < 6  # type: ignore[arg-type]  # in the middle always: 14 pixels
    assert float(errors["test_error"]) < 6  # type: ignore[arg-type]
