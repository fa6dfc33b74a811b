"""A finished run, trained once for all tests that only read it."""

from __future__ import annotations

import pytest
from small_runs import SMALL

from rl_coordconv.config import parse_config
from rl_coordconv.runs.folder import RunFolder
from rl_coordconv.runs.train import train

OPTIONS = [*SMALL, "--total-timesteps", "256", "--checkpoint-freq", "64"]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> RunFolder:
    """A tiny finished run with checkpoints, in a folder of its own."""
    folder = tmp_path_factory.mktemp("finished")
    config = parse_config([*OPTIONS, "--output", str(folder / "runs")])
    return train(config, " ".join(["python scripts/train.py", *OPTIONS]))
