"""What every task's training shares."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from rl_coordconv.errors import UserError
from rl_coordconv.tasks.experiment import Experiment, Outcome, Run

TRAINED: list[str] = []


@dataclass(kw_only=True)
class Stopping(Experiment):
    """A task that is interrupted in its fourth run, once."""

    measurements: ClassVar[tuple[str, ...]] = ("score",)
    title: ClassVar[str] = "Title"
    arms: ClassVar[tuple[str, ...]] = ("plain", "coordconv")

    name: str = "task"
    size: int = 1

    def train(self, run: Run) -> Outcome:
        if len(TRAINED) == 3 and TRAINED[-1] != "stopped":
            TRAINED.append("stopped")
            raise KeyboardInterrupt
        TRAINED.append(f"{run.arm}{run.seed}")
        return Outcome({"score": torch.rand(()).item()}, {"x": np.arange(run.seed)})

    def facts(self) -> dict[str, Any]:
        return {"fact": 1}

    def draw(self, results: dict[str, Any]) -> None:
        (self.folder / "figure.png").write_text("drawn")


def test_a_loss_that_is_no_number_stops_the_run(make_run: Callable[..., Run]) -> None:
    run = make_run("plain", 3)
    run.show_progress(1, 2, "loss {:.3f}", torch.tensor(1.0))
    with pytest.raises(UserError, match=r"plain/seed3 diverged: loss .* at step 2; lower the learning rate"):
        run.show_progress(2, 2, "loss {:.3f}", torch.tensor(torch.nan))


def test_a_stopped_experiment_goes_on_with_the_run_that_was_not_finished(tmp_path: Path) -> None:
    config = Stopping(output=str(tmp_path), seeds=[1, 2])
    TRAINED.clear()
    with pytest.raises(KeyboardInterrupt):
        config.run()
    assert not (tmp_path / "task" / "results.json").exists()
    assert config.run() == [tmp_path / "task"]
    assert TRAINED == ["plain1", "plain2", "coordconv1", "stopped", "coordconv2"]
    results = json.loads((tmp_path / "task" / "results.json").read_text())
    # Both arms start from the same seed.
    assert results["runs"]["plain"]["2"]["score"] == results["runs"]["coordconv"]["2"]["score"]
    assert results["summary"]["coordconv"]["score"]["gain"] == 0
    assert results["fact"] == 1
    assert config.samples("coordconv", 2)["x"].tolist() == [0, 1]
    assert (tmp_path / "task" / "figure.png").exists()


def test_seeds_may_be_added_but_other_options_are_refused(tmp_path: Path) -> None:
    config = Stopping(output=str(tmp_path), seeds=[1])
    TRAINED[:] = 4 * ["stopped"]
    config.run()
    dataclasses.replace(config, seeds=[1, 2]).run()
    assert TRAINED[4:] == ["plain1", "coordconv1", "plain2", "coordconv2"]
    before = (tmp_path / "task" / "results.json").read_bytes()
    with pytest.raises(UserError, match="holds an experiment with other options"):
        dataclasses.replace(config, size=2).run()
    assert (tmp_path / "task" / "results.json").read_bytes() == before


def test_a_damaged_options_file_is_refused(tmp_path: Path) -> None:
    config = Stopping(output=str(tmp_path))
    config.folder.mkdir()
    (config.folder / "options.json").write_text('{"options": ')
    with pytest.raises(UserError, match="is damaged"):
        config.run()
