"""Curves against a plain reference, and runs that SB3 trained elsewhere."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from rl_coordconv.compare.cache import FILE
from rl_coordconv.compare.collect import collect
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.foreign import read_evaluations, read_foreign, read_monitors
from rl_coordconv.compare.read import read_run
from rl_coordconv.compare.report import write_report
from rl_coordconv.compare.rundata import RunData, curve_of, step_grid, taking_part, window_means
from rl_coordconv.errors import UserError
from rl_coordconv.runs.folder import Progress, RunFolder

# Two runs that ``python -m rl_zoo3.train`` left after 8,192 steps of Breakout in 4 environments.
ZOO = Path(__file__).parents[1] / "data" / "zoo" / "ppo"


def run_of(steps, returns, last_step=None, total=1000, seed=1):
    steps, returns = np.array(steps, dtype=float), np.array(returns, dtype=float)
    progress = Progress("finished", int(steps[-1]) if last_step is None else last_step)
    curve = curve_of(steps, returns, progress.steps, total)
    return RunData("mine", "Breakout", "cnn", seed, progress=progress, total_steps=total, **curve)


@settings(deadline=None)  # a machine may be busy
@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(-100, 100)), min_size=1, max_size=60))
def test_curve_is_the_mean_of_the_window_or_the_last_game_before(games):
    games = sorted(games, key=lambda game: game[0])
    steps, returns = np.array(games, dtype=float).T
    grid = step_grid(1000)
    for point, value in zip(grid, window_means(steps, returns, grid, 100), strict=True):
        before = [score for step, score in games if step <= point]
        window = [score for step, score in games if point - 100 < step <= point]
        if not before:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(np.mean(window) if window else before[-1], abs=1e-9)


def test_runs_far_behind_are_left_out_and_the_rest_cut_to_the_shortest():
    full, shorter, begun = (run_of([10, n], [1, 2], n, seed=seed) for seed, n in enumerate((1000, 700, 300)))
    going_on = dataclasses.replace(begun, progress=Progress("running", 300))
    taking, grid = taking_part([full, shorter, going_on])
    assert [run.seed for run in taking] == [full.seed, shorter.seed]
    assert grid[-1] == 700
    taking, grid = taking_part([full, shorter, begun])  # finished: it will come no further
    assert len(taking) == 3
    assert grid[-1] == 300


@pytest.mark.slow
def test_an_sb3_run_by_its_monitors_and_by_its_events(tmp_path):
    environments = [
        lambda n=n: Monitor(gym.make("CartPole-v1"), str(tmp_path / "monitors" / str(n))) for n in range(2)
    ]
    (tmp_path / "monitors").mkdir()
    model = PPO("MlpPolicy", DummyVecEnv(environments), n_steps=128, tensorboard_log=str(tmp_path), seed=1)
    model.learn(1024)
    model.env.close()
    by_monitors = read_foreign(tmp_path / "monitors", "mine", "Breakout", "old", 1)
    by_events = read_foreign(tmp_path / "PPO_1", "mine", "Breakout", "old", 2)
    assert by_monitors.foreign
    assert by_monitors.last_step == pytest.approx(1024, rel=0.2)
    assert by_events.last_step == 1024
    # SB3 logs the mean of the last 100 games, and here all games are among them.
    assert by_events.returns[-1] == pytest.approx(read_monitors(tmp_path / "monitors")[0][1].mean(), rel=0.05)
    with pytest.raises(UserError, match=r"did you mean .*PPO_1"):
        read_foreign(tmp_path, "mine", "Breakout", "old", 1)


def test_a_run_of_rl_zoo_by_its_own_files():
    run = read_foreign(ZOO / "BreakoutNoFrameskip-v4_1", "mine", "Breakout", "zoo", 1)
    assert (run.last_step, run.finished, run.foreign) == (8192, True, True)
    assert (run.eval_score, run.eval_games) == (pytest.approx(5 / 3), 3)
    # Monitor counts frames, of which a step takes 4, and the no-ops of the wrappers.
    (steps, returns), speed = read_monitors(ZOO / "BreakoutNoFrameskip-v4_1")
    assert steps[-1] == pytest.approx(8192)
    assert steps[0] == pytest.approx(709 * 8192 / 8913)
    assert len(returns) == 50
    assert speed == pytest.approx(steps[-1] / 303.5, rel=0.01)
    assert run.returns[-1] == pytest.approx(returns[steps > 0.9 * 8192].mean())


def test_a_run_of_rl_zoo_that_was_broken_off_is_not_finished(tmp_path):
    copy = shutil.copytree(ZOO / "BreakoutNoFrameskip-v4_1", tmp_path / "run")
    [asked] = copy.glob("*/args.yml")
    asked.write_text(asked.read_text().replace("8192", "81920"))
    run = read_foreign(copy, "mine", "Breakout", "zoo", 1)
    assert (run.progress.state, run.total_steps) == ("unfinished", 81920)
    assert run.last_step < 10_000


def test_evaluations_alone_are_a_run_and_an_early_one_is_no_score(tmp_path):
    shutil.copy(ZOO / "BreakoutNoFrameskip-v4_2" / "evaluations.npz", tmp_path)
    run = read_foreign(tmp_path, "mine", "Breakout", "zoo", 1)
    assert (run.last_step, run.eval_score) == (8192, pytest.approx(5 / 3))
    assert run.returns[-1] == pytest.approx(5 / 3)
    for monitor in (ZOO / "BreakoutNoFrameskip-v4_2").glob("*monitor.csv"):
        lines = monitor.read_text().splitlines()
        (tmp_path / monitor.name).write_text("\n".join([*lines, *lines[2:], "1.0,cut o"]))
    later = read_foreign(tmp_path, "mine", "Breakout", "zoo", 1)
    assert later.last_step > 15_000
    assert later.eval_score is None


def test_damaged_evaluations_are_named(tmp_path):
    (tmp_path / "evaluations.npz").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match=r"evaluations.npz' cannot be read"):
        read_evaluations(tmp_path)


def test_rl_zoo_is_an_arm_beside_ones_own(script, written):
    arms = f"{{cnn: {{extractor: cnn}}, zoo: {{folders: {{Breakout: {ZOO}/BreakoutNoFrameskip-v4_*}}}}}}"
    folder = written(lambda config: 5.0 + config.seed, text=f"arms: {arms}", games="[Breakout]").folder
    assert script("report", folder) == 0
    text = (folder / "report.md").read_text()
    assert "| Breakout | 8,000 | train | zoo | " in text
    assert "scores are the last training games, as final evaluations differ in steps" in text
    assert "**Breakout**: zoo is not distinguishable from cnn" in text
    assert (folder / "figures" / "learning_curves_over_time.png").is_file()


def test_broken_monitor_is_named(tmp_path):
    (tmp_path / "monitor.csv").write_text("#{broken\nr,l,t\n1,2\n")
    with pytest.raises(UserError, match=r"Monitor files that cannot be read"):
        read_foreign(tmp_path, "mine", "Breakout", "old", 1)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("text", ["{}", "[]", '{"keys": {}, "report": ""}', '{"keys": '])
def test_a_damaged_list_of_what_was_read_is_read_anew(written, text):
    comparison = written(lambda config: 1.0 + config.seed, games="[Pong]", seeds="[1, 2]")
    first = write_report(comparison).read_bytes()
    whole = (comparison.folder / FILE).read_bytes()
    (comparison.folder / FILE).write_text(text)
    assert write_report(comparison).read_bytes() == first
    assert (comparison.folder / FILE).read_bytes() == whole


def test_a_second_report_reads_only_what_has_changed(written, monkeypatch):
    comparison = written(lambda config: 1.0 + config.seed, games="[Pong]", seeds="[1, 2]")
    page = write_report(comparison)
    first = page.read_bytes()
    monkeypatch.setattr(
        "rl_coordconv.compare.collect.read_run", None
    )  # calling it would name the run as broken
    assert write_report(comparison) == page
    assert not collect(comparison).broken
    assert page.read_bytes() == first
    monkeypatch.undo()
    RunFolder(comparison.runs[0].folder).append_evaluation({"step": 10_000, "returns": [50.0] * 20})
    write_report(comparison)
    assert page.read_bytes() != first
    assert [run.eval_score for run in collect(comparison).runs] == [50.0, 3.0, 2.0, 3.0]


@pytest.mark.usefixtures("no_figures")
def test_tables_of_another_report_are_not_taken_for_what_was_read(written):
    folder = written(lambda config: 1.0, games="[Pong]", text="name: one").folder
    other = written(lambda config: 2.0, games="[Pong]", text="name: two").folder
    for one in (folder, other):
        write_report(Comparison.load(one))
    for name in ("scores.csv", "curves.csv"):
        shutil.copy(other / name, folder / name)
    assert {run.eval_score for run in collect(Comparison.load(folder)).runs} == {1.0}


def test_a_second_report_sees_what_changed_of_an_arm_trained_elsewhere(written, tmp_path):
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    header = '#{"t_start": 0, "env_id": "Pong"}\nr,l,t\n'
    (zoo / "0.monitor.csv").write_text(header + "1,800,1.0\n" * 20)
    arms = f"{{cnn: {{extractor: cnn}}, zoo: {{folders: {{Pong: {zoo}}}}}}}"
    comparison = written(lambda config: 1.0, text=f"arms: {arms}", games="[Pong]", seeds="[1]")
    first = write_report(comparison).read_bytes()
    assert write_report(comparison).read_bytes() == first
    (zoo / "0.monitor.csv").write_text(header + "99,800,1.0\n" * 20)
    assert write_report(comparison).read_bytes() != first


def test_use_of_coordinates_is_read_from_its_table_or_from_the_events_of_older_runs(written):
    comparison = written(lambda config: 1.0, games="[Pong]", seeds="[1]")
    run = RunFolder(comparison.runs[1].folder)
    [now] = read_run(run, "mine", "Pong", "coordconv", 1).coord_use.items()
    run.coordinates.unlink()
    [before] = read_run(run, "mine", "Pong", "coordconv", 1).coord_use.items()
    assert now[0] == before[0] == "cnn.0"
    np.testing.assert_allclose(now[1], before[1], rtol=1e-6)
