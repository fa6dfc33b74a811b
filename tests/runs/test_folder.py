"""A run folder is there whole or not at all, and reads back what it wrote."""

from __future__ import annotations

import os
import shutil
import types

import pytest
import yaml

from rl_coordconv import EXTRACTORS, CoordConv2d, CoordConvNaturePool, Extractor
from rl_coordconv.algorithms.build import sb3_arguments
from rl_coordconv.config import EXTRACTOR_OPTIONS, FRAMES, RunConfig
from rl_coordconv.errors import UserError
from rl_coordconv.runs import progress
from rl_coordconv.runs.callbacks import Checkpoints
from rl_coordconv.runs.evaluation import PeriodicEvaluation, best_of
from rl_coordconv.runs.folder import Progress, RunFolder


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return RunConfig("Breakout", device="cpu", output=str(tmp_path)).validate()


@pytest.fixture
def run(config) -> RunFolder:
    run = RunFolder(config.folder)
    run.create(config, "python scripts/train.py --game Breakout")
    return run


def test_new_folder_explains_itself(run, config):
    assert {path.name for path in run.path.iterdir()} == {
        *("README.md", "command.txt", "versions.json", "config.yaml", "checkpoints")
    }
    assert (run.path / "command.txt").read_text() == "python scripts/train.py --game Breakout\n"
    assert run.load_config().to_dict() == config.to_dict()


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("kills", [True, False])
def test_whatever_fails_while_it_is_made_leaves_no_half_made_folder(config, monkeypatch, call, kills):
    """Each ``fsync`` and rename fails in turn: with a disk error, and as if the process were killed there."""

    class Killed(BaseException):
        pass

    real, run, failures = getattr(os, call), RunFolder(config.folder), 0
    while True:
        with monkeypatch.context() as patch:
            left = [failures]

            def fail(*args, left=left, patch=patch):
                left[0] -= 1
                if left[0] == -1:
                    if kills:  # nothing tidies up
                        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
                        raise Killed
                    raise OSError(28, "No space left on device")
                return real(*args)

            patch.setattr(os, call, fail)
            try:
                run.create(config)
                break
            except (Killed, UserError):
                failures += 1
                assert not run.path.exists()
        run.check_free()
    assert failures == {"fsync": 3, "replace": 4}[call]
    assert [path.name for path in run.path.parent.iterdir()] == ["seed1"]
    assert run.load_config().to_dict() == config.to_dict()


@pytest.mark.parametrize("name", EXTRACTORS)
def test_what_an_extractor_takes_by_default_is_written_down(name, tmp_path):
    config = RunConfig("Breakout", extractor=name, device="cpu", output=str(tmp_path)).validate()
    RunFolder(config.folder).create(config)
    written = yaml.safe_load((config.folder / "config.yaml").read_text())
    assert {option for option in EXTRACTOR_OPTIONS if written[option] is not None} == {
        *EXTRACTORS[name].options
    }


def test_a_run_rebuilds_its_network_when_the_defaults_of_its_extractor_have_changed(tmp_path, monkeypatch):
    class Later(CoordConvNaturePool):
        def __init__(
            self,
            space,
            features_dim=64,
            coord_layers=(0,),
            with_r=True,
            coord_init="zeros",
            coord_scale=2.0,
            pool="average",
            width=2,
        ):
            super().__init__(space, features_dim, coord_layers, with_r, coord_init, coord_scale, pool, width)

    def network(config):
        kwargs = sb3_arguments(config)["policy_kwargs"]
        extractor = kwargs["features_extractor_class"](FRAMES, **kwargs["features_extractor_kwargs"])
        scales = [layer.coord_scale for layer in extractor.modules() if isinstance(layer, CoordConv2d)]
        return {name: weight.shape for name, weight in extractor.state_dict().items()}, scales

    name = "coordconv-nature-pool"
    config = RunConfig("Breakout", extractor=name, device="cpu", output=str(tmp_path)).validate()
    RunFolder(config.folder).create(config)
    before = network(config)
    monkeypatch.setitem(EXTRACTORS, name, Extractor(Later))
    assert network(config) != before
    assert network(RunFolder(config.folder).load_config()) == before


def test_folder_that_another_run_has_taken_is_left_alone(run, config):
    with pytest.raises(UserError, match="cannot be made"):
        run.create(config)
    assert [path.name for path in run.path.parent.iterdir()] == ["seed1"]


def test_games_are_kept_up_to_the_checkpoint_and_a_cut_line_is_left_out(run):
    run.keep_games_until(0, "Breakout")
    run.append_games(({"r": float(step), "l": 5, "t": 0.5}, step) for step in (10, 20, 30))
    with open(run.monitor, "a") as file:
        file.write("4.0,5,0.")
    steps, returns = run.read_games()
    assert steps.tolist() == returns.tolist() == [10, 20, 30]
    run.keep_games_until(20, "Breakout")
    run.append_games([({"r": 1.0, "l": 5, "t": 0.5}, 25)])
    assert run.read_games()[0].tolist() == [10, 20, 25]
    assert run.monitor.read_text().splitlines()[1] == "r,l,t,step"


def test_evaluations_read_back_and_a_cut_line_is_left_out(run):
    records = [{"step": step, "returns": [1.0, 2.0], "lengths": [3, 4]} for step in (100, 200)]
    for record in records:
        run.append_evaluation(record)
    with open(run.evaluations, "a") as file:
        file.write('{"step": 300, "ret')
    assert run.read_evaluations() == records
    run.write_evaluations(records[:1])
    assert run.read_evaluations() == records[:1]


def test_a_damaged_evaluation_is_not_passed_over(run):
    run.append_evaluation({"step": 100, "returns": [1.0], "lengths": [3]})
    run.evaluations.write_text('{"step": 50, "ret\n' + run.evaluations.read_text())
    with pytest.raises(UserError, match=r"evaluations\.jsonl' is damaged"):
        run.read_evaluations()


@pytest.mark.parametrize(("best_step", "stays"), [(100, True), (300, False)])
def test_the_best_agent_goes_where_resuming_forgets_its_evaluation(run, config, best_step, stays):
    for step in (100, 300):
        run.append_evaluation({"step": step, "returns": [float(step == best_step)], "lengths": [1]})
    run.best_model.touch()
    evaluation = PeriodicEvaluation(run, config, Checkpoints(run, config))
    evaluation.num_timesteps = 200
    evaluation._on_training_start()
    assert run.best_model.exists() is stays
    assert [record["step"] for record in run.read_evaluations()] == [100]
    # A best agent that is gone is no bar for the next.
    assert evaluation.best == (1.0 if stays else -float("inf"))
    run.append_evaluation({"step": 400, "returns": [-5.0], "lengths": [1]})
    assert best_of(run.read_evaluations())["step"] == (100 if stays else 400)


def test_coordinates_have_a_header_where_a_full_disk_left_an_empty_file(run):
    run.coordinates.touch()
    run.append_coordinates(100, {"cnn.0": 0.5})
    assert {name: curve[1].tolist() for name, curve in run.read_coordinates().items()} == {"cnn.0": [0.5]}


def test_coordinates_cut_off_within_the_header_begin_anew(run):
    run.coordinates.write_text("step,cn")
    run.keep_coordinates_until(0)
    for step in (100, 200):
        run.append_coordinates(step, {"cnn.0": 0.5})
    assert run.read_coordinates()["cnn.0"][0].tolist() == [100, 200]


def test_speed_is_that_of_all_attempts_without_their_evaluations(run, config, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    model = types.SimpleNamespace(num_timesteps=0, ep_info_buffer=[], logger=None)
    games = types.SimpleNamespace(seconds=0.0)

    def attempt(steps, seconds, evaluation):
        report = progress.ProgressReport(run, config, games)
        with report.until_the_end(model):
            model.num_timesteps += steps
            now[0] += seconds + evaluation
            games.seconds = evaluation

    attempt(1_000, 10, 90)
    assert run.read_progress().steps_per_second == 100
    attempt(500, 20, 70)
    assert run.read_progress().steps_per_second == 1_500 / 30
    attempt(0, 0, 50)
    assert run.read_progress().steps_per_second == 1_500 / 30


def test_progress_reads_back(run):
    written = Progress("diverged", 500, 123.4, 7.5, 2, "loss", "train/loss is nan")
    run.write_progress(written)
    assert run.read_progress() == written
    run.final_model.write_bytes(b"")
    assert run.read_progress().state == "finished"


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"steps": 3}', "\x00"])
def test_no_or_broken_progress_is_an_unfinished_run(run, text):
    if text is not None:
        run.progress.write_text(text)
    assert run.read_progress() == Progress("unfinished")


def test_progress_of_a_later_version_is_read(run):
    run.progress.write_text('{"state": "running", "steps": 7, "gpu_memory": 1}')
    assert run.read_progress() == Progress("running", 7)
