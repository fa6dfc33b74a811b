"""Scores that outlive their runs: recorded while a comparison trains, known to the next, reported alone."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from known_scores import rows

from rl_coordconv.compare.collect import collect
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.jobs import JobResult, make_jobs
from rl_coordconv.compare.matrix import check_existing_runs, check_recorded_options, load_comparison
from rl_coordconv.compare.results import Results
from rl_coordconv.compare.tidy import read_csv
from rl_coordconv.config import EXTRACTOR_OPTIONS
from rl_coordconv.errors import UserError
from rl_coordconv.runs.folder import Progress, RunFolder

CONFIGS, RESULTS = (Path(__file__).parents[2] / path for path in ("configs/compare", "docs/results"))
PUBLISHED = sorted(file.parent.name for file in RESULTS.glob("*/comparison.yaml"))
MATRIX = """
name: small
games: [Breakout]
seeds: {seeds}
common:
  total_timesteps: 256
  n_envs: 2
  device: cpu
  eval_freq: 0
  final_eval_episodes: 1
  max_frames: 400
  features_dim: 32
  ppo: {{n_steps: 32, batch_size: 64, n_epochs: 1, learning_rate: {rate}}}
arms:
  coordconv: {{extractor: coordconv}}
"""


def write(folder: Path, seeds: str = "[1]", rate: float = 1e-4) -> Path:
    file = folder / "small.yaml"
    file.write_text(MATRIX.format(seeds=seeds, rate=rate))
    return file


@pytest.mark.slow
def test_a_comparison_goes_on_from_its_recorded_scores_on_another_machine(script, tmp_path):
    kept = tmp_path / "kept"
    assert script("compare", "--config", write(tmp_path), "--results", kept) == 0
    first = (kept / "scores.csv").read_text()
    [row] = rows(kept / "scores.csv")
    assert (row["arm"], row["step"], row["state"], row["n_games"]) == ("coordconv", "256", "finished", "1")
    shutil.rmtree(tmp_path / "runs")
    assert script("compare", "--config", write(tmp_path, "[1, 2]"), "--results", kept) == 0
    trained = sorted(path.name for path in tmp_path.glob("runs/small/Breakout/*/seed*"))
    assert trained == ["seed2"]
    assert set(first.splitlines()) < set((kept / "scores.csv").read_text().splitlines())
    assert len(rows(kept / "scores.csv")) == 2
    assert "2 seeds" in (tmp_path / "runs" / "small" / "report.md").read_text()


@pytest.fixture
def recorded(written, tmp_path):
    """Record finished runs of known scores and remove them; return the folder and the runs as they were."""

    def record(score, **kwargs):
        comparison = written(score, **kwargs)
        before = collect(comparison).runs
        kept = Results(tmp_path / "kept", comparison)
        jobs = make_jobs(comparison, ["true"], 0)
        kept.record(jobs, {job.name: JobResult("finished") for job in jobs})
        shutil.rmtree(comparison.folder)
        return kept.folder, before

    return record


def rising(config):
    return 100.0 + config.seed + (50.0 if config.arm == "coordconv" else 0.0)


def test_what_is_recorded_is_what_the_runs_said(recorded):
    folder, before = recorded(rising)
    after = collect(Comparison.load(folder)).runs
    assert [run.name for run in after] == [run.name for run in before]
    for found, expected in zip(after, before, strict=True):
        assert found.progress == expected.progress
        assert (found.eval_score, found.eval_games) == (expected.eval_score, expected.eval_games)
        assert found.train_score == pytest.approx(expected.train_score)
        assert found.machine == expected.machine
        np.testing.assert_allclose(found.grid, expected.grid)
        np.testing.assert_allclose(found.returns, expected.returns, rtol=1e-6)
        assert {*found.coord_use} == {*expected.coord_use}
    assert any(run.coord_use for run in after)
    size = sum((folder / name).stat().st_size for name in ("scores.csv", "curves.csv", "comparison.yaml"))
    assert size < 3_000 * len(before) + 10_000


def test_the_report_is_drawn_from_the_recorded_scores_alone(script, recorded):
    folder, _ = recorded(rising)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert script("report", folder) == 0
    text = (folder / "report.md").read_text()
    assert "**Breakout**: coordconv is **better** than cnn" in text
    assert len(re.findall(r"\]\((figures/\w+\.png)\)", text)) == 7
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert not (folder / "summary").exists()


def test_a_curve_whose_steps_are_rounded_for_the_table_is_the_same(recorded):
    folder, before = recorded(rising, text="common: {algo: ppo, total_timesteps: 10_030, device: cpu}")
    for found, expected in zip(collect(Comparison.load(folder)).runs, before, strict=True):
        np.testing.assert_allclose(found.at(expected.grid), expected.returns, rtol=1e-6)


def test_arms_trained_elsewhere_are_recorded_too(script, matrix_file, written, tmp_path):
    theirs = written(rising, text="name: theirs").folder
    arms = f"arms: {{cnn: {{extractor: cnn}}, old: {{folders: {{Pong: {theirs}/Pong/coordconv/seed*}}}}}}"
    comparison = written(rising, text=arms, games="[Pong]")
    kept = tmp_path / "kept"
    assert script("compare", "--config", matrix_file(arms, games="[Pong]"), "--results", kept) == 0
    for folder in (theirs, comparison.folder):
        shutil.rmtree(folder)
    found = collect(Comparison.load(kept))
    assert not found.broken
    assert [run.arm for run in found.runs].count("old") == 4


def test_a_run_trained_elsewhere_keeps_its_number_where_another_is_gone(matrix_file, written, tmp_path):
    theirs = written(lambda config: 10.0 * config.seed, text="name: theirs", seeds="[1, 2, 3, 4, 5]").folder
    arms = f"arms: {{cnn: {{extractor: cnn}}, old: {{folders: {{Pong: {theirs}/Pong/coordconv/seed*}}}}}}"

    def record() -> list[float | None]:
        kept = Results(tmp_path / "kept", load_comparison(matrix_file(arms, games="[Pong]")))
        kept.add([run for run in collect(kept.comparison).runs if run.foreign])
        return sorted(run.eval_score for run in read_csv(kept.folder))

    before = record()
    assert len({*before}) == 5
    shutil.rmtree(theirs / "Pong" / "coordconv" / "seed3")
    assert record() == before


def test_runs_trained_elsewhere_that_have_moved_are_the_same_runs(matrix_file, written, tmp_path):
    """As on another machine, where the same folders have another place."""
    theirs = written(lambda config: 10.0 * config.seed, text="name: theirs", seeds="[1, 2, 3]").folder
    arms = "arms: {{cnn: {{extractor: cnn}}, old: {{folders: {{Pong: {}/Pong/coordconv/seed*}}}}}}"

    def record(folder: Path) -> list[tuple[int, float | None]]:
        matrix = load_comparison(matrix_file(arms.format(folder), games="[Pong]"))
        kept = Results(tmp_path / "kept", matrix)
        found = collect(kept.comparison)
        assert not found.broken
        kept.add([run for run in found.runs if run.foreign])
        return [(run.seed, run.eval_score) for run in read_csv(kept.folder)]

    before = record(theirs)
    assert len(before) == 3
    theirs.rename(tmp_path / "moved")
    assert record(tmp_path / "moved") == before


def test_recorded_runs_of_seeds_that_are_not_compared_are_left_out(written, tmp_path):
    """Another machine has begun more seeds, and one arm is ahead of the other."""
    more = written(rising, games="[Pong]", seeds="[1, 2, 3, 4, 5]")
    kept = Results(tmp_path / "kept", more)
    runs = collect(more).runs
    kept.add([run for run in runs if run.seed == 5 and run.arm == "cnn"])
    found = collect(dataclasses.replace(more, seeds=(1, 2, 3, 4), results=kept.folder))
    assert {run.seed for run in found.runs} == {1, 2, 3, 4}
    assert not found.missing


@pytest.mark.parametrize("first", ["trained elsewhere", "trained here"])
def test_an_arm_is_not_trained_here_and_elsewhere_under_one_name(matrix_file, written, tmp_path, first):
    theirs = written(rising, text="name: theirs", games="[Pong]").folder
    here, there = "{extractor: coordconv}", f"{{folders: {{Pong: {theirs}/Pong/cnn/seed*}}}}"
    arms = [f"arms: {{cnn: {{extractor: cnn}}, old: {options}}}" for options in (there, here)]
    texts = arms if first == "trained elsewhere" else arms[::-1]
    kept = Results(tmp_path / "kept", load_comparison(matrix_file(texts[0], games="[Pong]")))
    kept.add(collect(Comparison.load(theirs)).runs[:1])
    with pytest.raises(UserError, match=f"records arm 'old' as {first}, which it is not"):
        Results(tmp_path / "kept", load_comparison(matrix_file(texts[1], games="[Pong]")))


def test_a_report_at_any_time_knows_where_scores_are_recorded(written, tmp_path):
    comparison = written(rising)
    kept = Results(tmp_path / "kept", comparison)
    jobs = make_jobs(comparison, ["true"], 0)
    kept.record(jobs, {job.name: JobResult("finished") for job in jobs})
    kept.comparison.save()
    shutil.rmtree(comparison.folder / "Pong")  # trained on another machine
    found = collect(Comparison.load(comparison.folder))
    assert not found.missing
    assert len(found.runs) == len(jobs)
    assert "results" not in (kept.folder / "comparison.yaml").read_text()


@pytest.mark.usefixtures("no_figures")
def test_a_report_sees_what_was_recorded_since_the_last_one(script, written, tmp_path, monkeypatch):
    """Where nothing was trained, and from whatever folder, the report's own tables are not the scores."""
    comparison = written(rising, games="[Pong]")
    kept = Results(tmp_path / "kept", comparison)
    jobs = make_jobs(comparison, ["true"], 0)
    monkeypatch.chdir(tmp_path)
    dataclasses.replace(comparison, results=Path("kept")).save()
    done = {job.name: JobResult("finished") for job in jobs}
    kept.record(jobs[:2], done)
    recorded = len(jobs[2:])
    runs = comparison.folder / "Pong"
    runs.rename(tmp_path / "elsewhere")
    for output in (comparison.folder, tmp_path / "paper"):
        options = [] if output == comparison.folder else ["--output", output]
        assert script("report", comparison.folder, *options) == 0
        assert len(rows(output / "scores.csv")) == 2
    (tmp_path / "elsewhere").rename(runs)
    kept.record(jobs[2:], done)
    shutil.rmtree(runs)
    (tmp_path / "further").mkdir()
    monkeypatch.chdir(tmp_path / "further")
    for output in (comparison.folder, tmp_path / "paper"):
        options = [] if output == comparison.folder else ["--output", output]
        assert script("report", comparison.folder, *options) == 0
        assert len(rows(output / "scores.csv")) == 2 + recorded


@pytest.mark.parametrize(
    ("recorded", "here", "taken"),
    [
        (("failed", 2_000), ("stopped", 9_000), 9_000),
        (("failed", 9_000), ("stopped", 2_000), 9_000),
        (("diverged", 2_000), ("stopped", 9_000), 2_000),
        (("diverged", 2_000), ("finished", 10_000), 10_000),
    ],
)
def test_of_a_run_that_is_recorded_and_here_the_further_one_counts(written, tmp_path, recorded, here, taken):
    comparison = written(rising, games="[Pong]", seeds="[1]")
    kept = Results(tmp_path / "kept", comparison)
    [run] = [run for run in collect(comparison).runs if run.arm == "cnn"]
    kept.add([dataclasses.replace(run, progress=Progress(*recorded))])
    folder = RunFolder(run.folder)
    if here[0] != "finished":
        folder.final_model.unlink()
        folder.keep_games_until(here[1], run.game)
    folder.write_progress(Progress(*here))
    found = collect(dataclasses.replace(comparison, results=kept.folder))
    assert [run.last_step for run in found.runs if run.arm == "cnn"] == [taken]


def test_a_run_that_cannot_be_read_stops_no_other(written, tmp_path):
    comparison = written(rising)
    jobs = make_jobs(comparison, ["true"], 0)
    jobs[0].run.monitor.write_text("#{}\nr,l,t,step\nx,x,x,x\n")
    kept = Results(tmp_path / "kept", comparison)
    kept.record(jobs, {job.name: JobResult("finished") for job in jobs})
    assert len(rows(kept.folder / "scores.csv")) == len(jobs) - 1


def test_two_machines_with_other_arms_record_both(written, tmp_path):
    both = [written(rising, text=f"arms: {{{name}: {{extractor: {name}}}}}") for name in ("cnn", "impala")]
    results = [Results(tmp_path / "kept", comparison) for comparison in both]
    for kept, comparison in zip(results, both, strict=True):
        jobs = make_jobs(comparison, ["true"], 0)
        kept.record(jobs, {job.name: JobResult("finished") for job in jobs})
    assert set(Comparison.load(tmp_path / "kept").arms) == {"cnn", "impala"}


def test_a_run_trained_elsewhere_that_is_not_there_is_named(tmp_path):
    foreign = {"zoo": {"Pong": [tmp_path / "zoo1"]}}
    found = collect(
        Comparison(tmp_path, ("Pong",), ("cnn", "zoo"), (1,), "cnn", foreign=foreign, results=tmp_path)
    )
    assert [*found.broken] == ["Pong/zoo/seed1"]
    assert found.broken["Pong/zoo/seed1"].endswith("zoo1' is not there")


def test_recorded_runs_are_not_trained_again_and_diverged_ones_neither(written, tmp_path):
    comparison = written(rising)
    failed, diverged = (RunFolder(run.folder) for run in comparison.runs[:2])
    for run, state in ((failed, "failed"), (diverged, "diverged")):
        run.final_model.unlink()
        run.write_progress(Progress(state, 9_000, attempts=2, exit_reason="because"))
    kept = Results(tmp_path / "kept", comparison)
    jobs = make_jobs(comparison, ["true"], 0)
    states = {job.name: JobResult("failed" if job in jobs[:2] else "finished") for job in jobs[:5]}
    kept.record(jobs, states)
    kept.record(jobs, states)
    again = Results(tmp_path / "kept", comparison)
    assert again.open_jobs(jobs) == [jobs[0], *jobs[5:]]
    assert [row["exit_reason"] for row in rows(kept.folder / "scores.csv")].count("because") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "common: {total_timesteps: 20_000}"}, "total_timesteps 10000.*wants 20000"),
        (
            {"text": "arms: {cnn: {extractor: cnn}, coordconv: {coord_layers: [1]}}"},
            r"coord_layers \[0\].*wants \[1\]",
        ),
    ],
)
def test_other_options_are_refused_and_nothing_is_overwritten(
    script, recorded, matrix_file, capsys, tmp_path, change, message
):
    folder, _ = recorded(rising)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    file = matrix_file(**change)
    assert script("compare", "--config", file, "--results", folder) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "runs" / "mine").exists()


def test_what_is_not_learned_from_may_differ_and_seeds_games_and_arms_be_added(recorded, matrix_file):
    folder, _ = recorded(rising)
    arms = "{cnn: {extractor: cnn}, coordconv: {}, all: {coord_layers: [0, 1, 2]}}"
    common = "{algo: ppo, total_timesteps: 10_000, device: auto, checkpoint_freq: 7, eval_freq: 5}"
    wanted = load_comparison(matrix_file(f"arms: {arms}\ncommon: {common}", games="[Qbert]", seeds="[2, 9]"))
    found = Results(folder, wanted).comparison
    assert found.games == ("Qbert", "Breakout", "Pong")
    assert found.arms == ("cnn", "coordconv", "all")
    assert found.seeds == (2, 9, 1, 3, 4)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if (CONFIGS / f"{name}.yaml").exists()])
def test_scores_that_the_documentation_keeps_are_of_the_comparison_that_makes_them(name):
    """Those from before defaults were written down say null where today's say what null means."""
    check_recorded_options(load_comparison(CONFIGS / f"{name}.yaml"), Comparison.load(RESULTS / name))


def test_a_comparison_begun_before_defaults_were_written_down_goes_on(written, matrix_file):
    comparison = written(lambda config: 1.0)
    for file in (comparison.file, *comparison.folder.glob("*/*/seed*/config.yaml")):
        values = yaml.safe_load(file.read_text())
        for options in (values, *values.get("options", {}).values()):
            options |= {name: None for name in EXTRACTOR_OPTIONS if name in options}
        file.write_text(yaml.safe_dump(values))
    recorded = Comparison.load(comparison.folder)
    assert recorded.options["coordconv"]["coord_layers"] is None
    check_existing_runs(load_comparison(matrix_file()))
    check_recorded_options(load_comparison(matrix_file()), recorded)


def cut(file: Path, end: int) -> None:
    file.write_text(file.read_text()[:end])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "comparison.yaml").unlink(), "without comparison.yaml"),
        (lambda folder: (folder / "curves.csv").unlink(), "curves.csv' cannot be read"),
        (
            lambda folder: (folder / "scores.csv").write_text("game,arm\nPong,cnn\n"),
            "line 1, lacks comparison",
        ),
        (lambda folder: (folder / "scores.csv").write_text(""), "line 1, lacks comparison"),
        (lambda folder: cut(folder / "scores.csv", -3), r"line \d+, has 20 values for 21 columns"),
        (lambda folder: cut(folder / "scores.csv", -1), "scores.csv' is cut off"),
        (
            lambda folder: (folder / "curves.csv").write_text(
                (folder / "curves.csv").read_text().replace("\n", ",9\n").replace(",9\n", "\n", 1)
            ),
            "curves.csv', line 2, has 8 values for 7 columns",
        ),
    ],
)
def test_damaged_results_are_one_line(recorded, matrix_file, damage, message):
    folder, _ = recorded(rising)
    damage(folder)
    with pytest.raises(UserError, match=message):
        Results(folder, load_comparison(matrix_file()))


def test_a_table_without_the_newest_columns_is_read(recorded):
    folder, before = recorded(rising)
    file = folder / "scores.csv"
    table = rows(file)
    with open(file, "w", newline="") as lines:
        writer = csv.DictWriter(
            lines, [name for name in table[0] if name != "compile"], extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(table)
    assert [run.eval_score for run in read_csv(folder)] == [run.eval_score for run in before]
