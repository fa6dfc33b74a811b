"""What the demo says of runs that are there; that it trains and films is tested with the README."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_coordconv.config import load_config
from rl_coordconv.runs import train as module
from rl_coordconv.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def begun(tmp_path) -> RunFolder:
    """The second arm, as a demo has begun it."""
    values = {"extractor": "coordconv", "arm": "coordconv", "output": str(tmp_path / "runs")}
    config = load_config(ROOT / "configs" / "demo.yaml", **values)
    run = RunFolder(config.folder)
    run.create(config)
    return run


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--total-timesteps", 640], "total_timesteps 50000, not 640:"),
        (["--ppo.n_epochs", 1, "--seed", 1, "--n-envs", 4], "n_envs 8, not 4; ppo.n_epochs 4, not 1:"),
        (["--algo", "a2c"], "algo ppo, not a2c:"),
    ],
)
def test_other_options_than_those_of_an_earlier_demo_are_refused(args, says, begun, script, capsys, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert script("demo", *args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"seed1' was begun with {says}" in error
    assert sorted(tmp_path.rglob("*")) == before


def test_the_same_options_go_on_and_a_stop_says_with_which_command(begun, script, capsys, monkeypatch):
    def stop(*args):
        raise module.Interrupted

    monkeypatch.setattr(module, "resume", lambda path: RunFolder(path))
    monkeypatch.setattr(module, "train", stop)
    assert script("demo", "--output", begun.path.parents[3]) == 130
    error = capsys.readouterr().err
    assert f"continue with python scripts/demo.py --output {begun.path.parents[3]}" in error
