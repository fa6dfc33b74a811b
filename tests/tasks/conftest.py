"""Shared by the tests of the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.tensorboard.writer import SummaryWriter

from rl_coordconv.tasks.experiment import Run
from rl_coordconv.tasks.progress import StepBar


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Make what a training is handed; its curves are in ``tmp_path``."""
    with SummaryWriter(str(tmp_path)) as writer, StepBar("test") as bar:

        def make(arm: str, seed: int = 1) -> Run:
            torch.manual_seed(seed)
            return Run(arm, seed, torch.device("cpu"), writer, bar)

        yield make
