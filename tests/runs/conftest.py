"""A finished run, trained once for all tests that only read it."""

from __future__ import annotations

import pytest

from rl_coordconv.config import parse_config
from rl_coordconv.runs.folder import RunFolder
from rl_coordconv.runs.train import train

OPTIONS = [
    *("--game", "Freeway", "--n-envs", "2", "--device", "cpu", "--features-dim", "16", "--max-frames", "400"),
    *("--ppo.n_steps", "32", "--ppo.batch_size", "32", "--ppo.n_epochs", "1", "--total-timesteps", "256"),
    *("--eval-freq", "0", "--eval-episodes", "1", "--checkpoint-freq", "64"),
]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> RunFolder:
    """A tiny finished run with checkpoints, in a folder of its own."""
    folder = tmp_path_factory.mktemp("finished")
    config = parse_config([*OPTIONS, "--output", str(folder / "runs")])
    return train(config, " ".join(["python scripts/train.py", *OPTIONS]))
