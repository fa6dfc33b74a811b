"""What every task's training shares."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.tensorboard.writer import SummaryWriter

from rl_coordconv.errors import UserError
from rl_coordconv.tasks.experiment import Outcome, Run, TaskConfig, load_samples, run_experiment
from rl_coordconv.tasks.progress import StepBar


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer, StepBar(2, "test") as bar:
        run = Run("plain", 3, torch.device("cpu"), writer, bar)
        run.show_progress(1, "loss {:.3f}", torch.tensor(1.0))
        with pytest.raises(
            UserError, match=r"plain/seed3 diverged: loss .* at step 2; lower the learning rate"
        ):
            run.show_progress(2, "loss {:.3f}", torch.tensor(torch.nan))


def test_a_stopped_experiment_goes_on_with_the_run_that_was_not_finished(tmp_path: Path) -> None:
    config = TaskConfig(name="task", output=str(tmp_path), seeds=2)
    trained = []

    def train(run: Run) -> Outcome:
        if len(trained) == 3 and trained[-1] != "stopped":
            trained.append("stopped")
            raise KeyboardInterrupt
        trained.append(f"{run.arm}{run.seed}")
        return Outcome({"score": torch.rand(()).item()}, {"x": np.arange(run.seed)})

    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, ["plain", "coordconv"], 1, train, {})
    assert not (tmp_path / "task" / "results.json").exists()
    config.check()
    results = run_experiment(config, ["plain", "coordconv"], 1, train, {"fact": 1})
    assert trained == ["plain1", "plain2", "coordconv1", "stopped", "coordconv2"]
    # Both arms start from the same seed.
    assert results["runs"]["plain"][2]["score"] == results["runs"]["coordconv"][2]["score"]
    assert json.loads((tmp_path / "task" / "results.json").read_text())["fact"] == 1
    assert load_samples(tmp_path / "task", "coordconv", 2)["x"].tolist() == [0, 1]


def test_a_damaged_options_file_is_refused(tmp_path: Path) -> None:
    config = TaskConfig(name="task", output=str(tmp_path))
    config.folder.mkdir()
    (config.folder / "options.json").write_text('{"options": ')
    with pytest.raises(UserError, match="is damaged"):
        config.check()
