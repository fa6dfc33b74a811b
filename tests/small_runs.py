"""What tests of real trainings share: options of a small one, and waiting for another process."""

from __future__ import annotations

import time
from collections.abc import Callable

SMALL = [
    *("--game", "Freeway", "--n-envs", "2", "--eval-freq", "0", "--eval-episodes", "1", "--device", "cpu"),
    *("--features-dim", "16", "--ppo.n_steps", "32", "--ppo.batch_size", "32", "--ppo.n_epochs", "1"),
    *("--max-frames", "400"),
]


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    """Wait until a condition holds; a machine may be busy with other tests."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)
