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
from rl_coordconv.runs.folder import RunFolder
from rl_coordconv.tasks.detection.training import DetectionConfig
from rl_coordconv.tasks.experiment import Experiment, Outcome, Run
from rl_coordconv.tasks.toy.config import ToyConfig

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


def test_runs_that_were_trained_with_different_versions_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Stopping(output=str(tmp_path), seeds=[1, 2])
    TRAINED[:] = 4 * ["stopped"]
    config.run()
    now = json.loads((config.folder / "results.json").read_text())["versions"]
    assert now["torch"] == torch.__version__
    assert "note: " not in capsys.readouterr().out
    file = config.folder / "plain" / "seed1" / "versions.json"
    file.write_text(json.dumps({**now, "torch": "1.0"}))
    (config.folder / "coordconv" / "seed2" / "versions.json").unlink()
    config.run()
    found = json.loads((config.folder / "results.json").read_text())["versions"]
    assert found["torch"] == ["1.0", now["torch"], "not known"]
    assert "note: trained with different torch: 1.0, " in capsys.readouterr().out


def test_a_run_whose_result_is_cut_off_is_trained_again(tmp_path: Path) -> None:
    config = Stopping(output=str(tmp_path), seeds=[1])
    TRAINED[:] = 4 * ["stopped"]
    config.run()
    (config.folder / "plain" / "seed1" / "result.json").write_text('{"score": ')
    config.run()
    assert TRAINED[4:] == ["plain1", "coordconv1", "plain1"]
    (config.folder / "plain" / "seed1" / "samples.npz").write_bytes(b"PK cut off")
    with pytest.raises(UserError, match=r"samples.npz' cannot be read"):
        config.samples("plain", 1)


def test_a_result_of_another_version_is_refused_by_name_and_kept(tmp_path: Path) -> None:
    config = Stopping(output=str(tmp_path), seeds=[1])
    TRAINED[:] = 4 * ["stopped"]
    config.run()
    result = config.folder / "plain" / "seed1" / "result.json"
    result.write_text('{"accuracy": 1}')
    with pytest.raises(
        UserError, match=r"plain.seed1.result.json' is of another version, without score: rem"
    ):
        config.run()
    assert result.read_text() == '{"accuracy": 1}'
    result.write_text('{"score": 1, "seconds": 2, "accuracy": 1}')  # more than is measured now
    config.run()
    assert TRAINED[4:] == ["plain1", "coordconv1"]


def test_seeds_may_be_added_but_other_options_are_refused(tmp_path: Path) -> None:
    config = Stopping(output=str(tmp_path), seeds=[1])
    TRAINED[:] = 4 * ["stopped"]
    config.run()
    dataclasses.replace(config, seeds=[1, 2]).run()
    assert TRAINED[4:] == ["plain1", "coordconv1", "plain2", "coordconv2"]
    before = (tmp_path / "task" / "results.json").read_bytes()
    with pytest.raises(UserError, match="holds an experiment with size 1, not 2: choose"):
        dataclasses.replace(config, size=2).run()
    assert (tmp_path / "task" / "results.json").read_bytes() == before


def test_a_damaged_options_file_is_refused(tmp_path: Path) -> None:
    config = Stopping(output=str(tmp_path))
    config.folder.mkdir()
    (config.folder / "options.json").write_text('{"options": ')
    with pytest.raises(UserError, match="is damaged"):
        config.run()


def test_a_refused_experiment_leaves_the_options_of_the_one_that_runs(tmp_path: Path) -> None:
    config = Stopping(output=str(tmp_path), seeds=[1, 2])
    TRAINED[:] = 4 * ["stopped"]
    config.run()
    before = (config.folder / "options.json").read_bytes()
    with RunFolder(config.folder).lock(), pytest.raises(UserError, match="in use by another process"):
        dataclasses.replace(config, seeds=[9]).run()
    assert (config.folder / "options.json").read_bytes() == before


@pytest.mark.parametrize("seeds", [[2**31], [-1], [1, 1], []])
def test_seeds_that_cannot_be_used_are_refused(tmp_path: Path, seeds: list[int]) -> None:
    with pytest.raises(UserError, match="seeds"):
        Stopping(output=str(tmp_path), seeds=seeds).run()
    assert not any(tmp_path.iterdir())


def test_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="out of memory: lower batch_size or width or canvas_size"):
        DetectionConfig(width=10**12, seeds=[1], output=str(tmp_path)).run()
    assert not any(tmp_path.iterdir())


def test_all_runs_of_a_budget_have_as_many_seconds(tmp_path: Path) -> None:
    config = ToyConfig(task="classification", budget=6, seeds=[1], output=str(tmp_path))
    config.folder.mkdir(parents=True)
    (config.folder / "options.json").write_text(json.dumps({"options": config.to_dict()}))
    config.check()
    more = dataclasses.replace(config, seeds=[1, 2, 3])
    more.check()
    assert more.run_seconds == config.run_seconds == 3.0
    with pytest.raises(UserError, match=r"budget 6, not 12"):
        dataclasses.replace(config, budget=12).check()
