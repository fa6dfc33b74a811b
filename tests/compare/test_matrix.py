"""A matrix is validated whole before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rl_coordconv.compare.jobs import make_jobs
from rl_coordconv.compare.matrix import check_existing_runs, load_comparison
from rl_coordconv.compare.plan import plan
from rl_coordconv.errors import UserError

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "compare").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_ready_made_matrices(path):
    comparison = load_comparison(path)
    assert comparison.baseline == ("fp32" if path.stem == "precision" else "cnn")
    assert len({run.folder for run in comparison.runs}) == len(comparison.runs)
    if path.stem.startswith("atari9"):
        assert (len(comparison.games), comparison.arms, len(comparison.seeds)) == (9, ("cnn", "coordconv"), 5)
        assert {run.total_timesteps for run in comparison.runs} == {10_000_000}


@pytest.mark.parametrize("name", ["ppo_atari", "a2c_atari"])
def test_a_runs_config_is_no_comparison_and_says_whose_it_is(refused, name):
    config = Path(__file__).parents[2] / "configs" / f"{name}.yaml"
    assert "holds a run's options" in (error := refused("compare", "--config", config))
    assert "give it to scripts/train.py --config" in error


def test_arms_share_seeds_and_differ_in_what_they_name(matrix_file):
    arms = "{cnn: {extractor: cnn}, a2c: {algo: a2c, a2c: {n_steps: 8}}, all: {coord_layers: [0, 1, 2]}}"
    comparison = load_comparison(matrix_file(f"arms: {arms}", seeds="[4, 7]"))
    by_arm = {arm: [run for run in comparison.runs if run.arm == arm] for arm in comparison.arms}
    assert [len(runs) for runs in by_arm.values()] == [4, 4, 4]
    assert {(run.game, run.seed) for run in by_arm["cnn"]} == {(run.game, run.seed) for run in by_arm["a2c"]}
    assert by_arm["a2c"][0].hyperparameters.n_steps == 8
    assert by_arm["all"][0].coord_layers == [0, 1, 2]


BAD = {
    "unknown key": ("gmes: [Pong]", "unknown key in .* 'gmes'.*did you mean 'games'"),
    "unknown game": ("games: [Brakout]", "Brakout.*did you mean 'Breakout'"),
    "no games": ("games: []", "games is"),
    "game twice": ("games: [Pong, pong]", "game Pong is given twice"),
    "seed twice": ("seeds: [1, 1]", "seed 1 is given twice"),
    "seed no number": ("seeds: [one]", "seed 'one' must be a whole number"),
    "no arms": ("arms: {}", "arms is"),
    "unknown baseline": ("baseline: cmn", "did you mean 'cnn'"),
    "unknown score": ("score: evals", "did you mean 'eval'"),
    "arm's option": ("arms: {cnn: {extracter: cnn}}", "arm 'cnn'.*did you mean 'extractor'"),
    "arm's value": ("arms: {cnn: {n_envs: -1}}", "n_envs is -1"),
    "set by the matrix": ("arms: {cnn: {seed: 3}}", "'seed' is set by the comparison"),
    "arms alike": ("arms: {a: {extractor: cnn}, b: {extractor: cnn}}", "arms 'a' and 'b' have the same"),
    "folder missing": ("arms: {cnn: {}, old: {folders: {Pong: logs/*}}}", "there is no folder"),
    "folder without a run": (
        "arms: {cnn: {}, old: {folders: {Pong: .}}}",
        "arm 'old': .* holds no run",
    ),
    "arm without options": ("arms: {cnn: {}, old: }", "arm 'old' has no options: give some"),
    "folder twice": ("arms: {cnn: {}, old: {folders: {Pong: [., ./.]}}}", "is given twice"),
    "folder's game twice": (
        "arms: {cnn: {}, old: {folders: {Pong: ., pong: .}}}",
        "game Pong is given twice",
    ),
    "arm's name": ("arms: {cnn: {}, a/../../b: {folders: {Pong: .}}}", "must be a folder name"),
    "its name": ("name: ../../evil", "must be a folder name"),
    "folder's game": ("arms: {cnn: {}, old: {folders: {Qbert: logs/*}}}", "unknown game of arm 'old'"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_bad_matrix_is_one_line_and_leaves_nothing(script, matrix_file, capsys, tmp_path, text, message):
    file = matrix_file(text)
    assert script("compare", "--config", file) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(UserError, match=message):
        load_comparison(file)
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give the comparison"),
        (["--slots", 0], "slots is 0"),
        (["--retries", -1], "retries is -1"),
        (["--executor", "slurm"], "executor is slurm"),
        (["--address", "auto"], "address is for --executor ray"),
        (["--results", "/proc/none"], "results '/proc/none' cannot be made"),
    ],
)
def test_bad_options_are_one_line(script, matrix_file, capsys, tmp_path, args, message):
    args = [*args, "--config", matrix_file()] if args else []
    assert script("compare", *args) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_runs_with_other_options_are_not_mixed_in(written, matrix_file):
    comparison = written(lambda config: 1.0)
    check_existing_runs(comparison)
    longer = load_comparison(matrix_file("common: {total_timesteps: 20_000}"))
    with pytest.raises(
        UserError, match="is there with total_timesteps 10000, but the comparison wants 20000"
    ):
        check_existing_runs(longer)
    assert yaml.safe_load(comparison.file.read_text())["baseline"] == "cnn"


def test_before_the_first_run_it_says_what_it_can_show_and_what_it_costs(matrix_file):
    comparison = load_comparison(matrix_file(seeds="[1, 2, 3, 4, 5]"))
    comparison.save()
    jobs = make_jobs(comparison, ["true"], 0)
    cost, power = plan(comparison, jobs, 2, [])
    assert cost == "20 runs to train, 200,000 steps"
    # Two-sample t-test, n = 5: 2.0 at 5 %, 2.5 at 5 % / 3.
    assert "2.0 standard deviations between seeds; 2.5 if all 3 questions" in power
    [_, alone] = plan(load_comparison(matrix_file("arms: {cnn: {}}")), [], 2, [])
    assert alone == "one arm: scores and curves, nothing to compare them with"
    [_, few] = plan(load_comparison(matrix_file(seeds="[1, 2]")), [], 2, [])
    assert "no difference on a game: give 5 or more" in few
