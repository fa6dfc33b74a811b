"""Parts of comparisons, several of them together, and other names for arms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from known_scores import clearly_better_on_breakout, rows

from rl_coordconv.compare.analysis import analyse
from rl_coordconv.compare.collect import Collected, collect
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.rundata import RunData
from rl_coordconv.compare.select import merged, selected
from rl_coordconv.compare.tidy import read_csv, write_csv
from rl_coordconv.runs.folder import Progress


def run_of(comparison, seed, grid, returns, **scores):
    progress = Progress("finished", 10)
    shared = {"progress": progress, "total_steps": 10, "grid": grid, "returns": returns}
    return RunData(comparison, "Pong", "cnn", seed, **shared, **scores)


def test_a_part_of_two_comparisons_with_other_names_for_a_paper(script, written, tmp_path):
    first = written(clearly_better_on_breakout, text="name: first").folder
    second = written(
        lambda config: 1 + clearly_better_on_breakout(config), text="name: second", seeds="[1]"
    ).folder
    paper = tmp_path / "paper"
    options = ["--games", "Breakout", "--labels", "cnn=Nature CNN, plain", "--figures", "svg", "--latex"]
    assert script("report", first, "--merge", second, *options, "--output", paper) == 0
    scores = rows(paper / "scores.csv")
    assert {(row["comparison"], row["game"], row["arm"]) for row in scores} == {
        (name, "Breakout", arm) for name in ("first", "second") for arm in ("Nature CNN, plain", "coordconv")
    }
    assert len(scores) == 10
    assert (paper / "figures" / "learning_curves.svg").read_text().startswith("<?xml")
    tables = (paper / "tables.tex").read_text()
    assert "Breakout & 10,000 & eval & Nature CNN, plain & " in tables
    assert tables.count(r"\begin{tabular}") == tables.count(r"\end{tabular}") == 2
    assert "Part of a comparison (games: 2, arms: 2): corrected for" in (paper / "report.md").read_text()
    assert not (first / "report.md").exists()


def test_arms_of_one_name_with_other_options_stay_apart(written):
    parts = []
    for name, arms in (
        ("one", "{cnn: {extractor: cnn}, coordconv: {n_envs: 4}}"),
        ("two", "{cnn: {extractor: cnn, n_envs: 4}}"),
    ):
        comparison = written(
            lambda config: 1.0, text=f"name: {name}\narms: {arms}", games="[Pong]", seeds="[1]"
        )
        parts.append((comparison, collect(comparison)))
    whole, data = merged(parts)
    assert whole.arms == ("cnn", "coordconv", "cnn (two)")
    assert {run.arm for run in data.runs} == set(whole.arms)


def test_a_merge_names_what_else_its_comparisons_differ_in(written):
    parts = []
    for name, epsilon in (("one", 1e-5), ("two", 1e-8)):
        arms = f"{{cnn: {{extractor: cnn}}, {name}: {{extractor: coordconv, width: null}}}}"
        common = f"common: {{ppo: {{adam_eps: {epsilon}}}}}"
        comparison = written(lambda config: 1.0, text=f"name: {name}\narms: {arms}\n{common}", games="[Pong]")
        parts.append((comparison, collect(comparison)))
    both = analyse(*merged(parts))
    assert any("The merged comparisons differ in ppo.adam_eps: " in note for note in both.notes)
    alike = analyse(*merged([parts[0]]))
    assert not any("merged" in note for note in alike.notes)


def test_every_clash_gets_a_name_of_its_own_and_arms_without_options_are_never_one():
    run = run_of("x", 1, np.empty(0), np.empty(0))
    parts = []
    for place, options in (("a", {"cnn": {"algo": "ppo"}}), ("b", {"cnn": {"algo": "a2c"}}), ("c", {})):
        comparison = Comparison(Path(place) / "x", ("Pong",), ("cnn",), (1,), "cnn", options=options)
        parts.append((comparison, Collected([run], {}, [])))
    whole, data = merged(parts)
    assert whole.arms == ("cnn", "cnn (x)", "cnn (x)'")
    assert [run.arm for run in data.runs] == list(whole.arms)


def test_missing_and_broken_runs_go_by_the_new_name_of_their_arm_and_seed():
    parts = [
        (Comparison(Path(name), ("Pong",), ("cnn",), (1,), "cnn", options={"cnn": {"algo": algo}}), missing)
        for name, algo, missing in (
            ("a", "ppo", Collected([], {}, [])),
            ("b", "a2c", Collected([], {"Pong/cnn/seed1": "cut"}, ["Pong/cnn/seed1"])),
        )
    ]
    whole = merged(parts)
    assert whole[1].missing == [*whole[1].broken] == [f"Pong/cnn (b)/seed{whole[0].seeds[1]}"]
    assert selected(whole, None, ["cnn (b)"])[1] == whole[1]
    others = selected(whole, None, ["cnn"])[1]
    assert not others.missing
    assert not others.broken


def test_a_comparison_is_merged_once(script, written, capsys, tmp_path):
    folder = written(lambda config: 1.0, games="[Pong]", seeds="[1]").folder
    assert script("report", folder, "--merge", folder, "--output", tmp_path / "x") == 2
    assert "Pong/cnn/seed1 of 'mine' is there twice" in capsys.readouterr().err


def test_a_run_that_two_comparisons_trained_alike_counts_once(written):
    """From one seed one machine gives one run: as two it would make intervals too narrow."""
    parts = []
    for name, seeds, shift in (("one", "[1, 2]", 0.0), ("two", "[2, 3]", 0.0), ("three", "[1]", 0.5)):
        comparison = written(
            lambda config, shift=shift: 5.0 + config.seed + shift,
            text=f"name: {name}",
            games="[Pong]",
            seeds=seeds,
        )
        parts.append((comparison, collect(comparison)))
    whole, data = merged(parts)
    scores = [run.eval_score for run in data.runs if run.arm == "cnn"]
    assert scores == [6.0, 7.0, 8.0, 6.5]
    [remark] = whole.remarks
    assert "have runs of one arm and seed" in remark
    assert not analyse(whole, data).interim


@pytest.mark.parametrize("order", ["aab", "aba", "baa"])
def test_a_copy_is_found_wherever_it_stands_and_with_the_digits_of_a_table(order, tmp_path):
    """A recorded run has seven digits, one that is read from its folder all of them."""
    grid = np.array([5.0, 10.0])
    parts = []
    for number, kind in enumerate(order):
        score = 412 + 1 / 3 if kind == "a" else 7.0
        returns = np.array([np.nan, score])
        run = run_of(f"{number}", 1, grid, returns, train_score=score, eval_score=score)
        if number == 2:
            write_csv([run], tmp_path)
            [run] = read_csv(tmp_path)
        comparison = Comparison(Path(f"{number}"), ("Pong",), ("cnn",), (1,), "cnn", options={"cnn": {}})
        parts.append((comparison, Collected([run], {}, [])))
    assert len(merged(parts)[1].runs) == 2


def test_seeds_of_any_size_stay_apart():
    none = np.empty(0)
    parts = []
    for name, seeds in (("a", (1, 100_001)), ("b", (1,))):
        comparison = Comparison(Path(name), ("Pong",), ("cnn",), seeds, "cnn", options={"cnn": {}})
        runs = [run_of(name, seed, none, none) for seed in seeds]
        parts.append((comparison, Collected(runs, {}, [])))
    whole, data = merged(parts)
    assert len({run.seed for run in data.runs}) == len(data.runs) == len(whole.seeds) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--labels", "cnn=../../x", "--output", "x"], "label '../../x' must not hold /"),
        (["--games", "Pong"], "give --output"),
        (["--games", "[]"], "give --output"),
        (["--games", "[]", "--output", "x"], "games is empty: give one or more"),
        (["--arms", "[]", "--output", "x"], "arms is empty: give one or more"),
        (["--games", "Qbert", "--output", "x"], "unknown game 'Qbert'"),
        (["--arms", "cmn", "--output", "x"], "did you mean 'cnn'"),
        (["--labels", "cnn", "--output", "x"], "must be arm=label"),
        (["--labels", "cnn=coordconv", "--output", "x"], "two arms the name 'coordconv'"),
        (["--games", "Pong", "pong", "--output", "x"], "game 'Pong' is given twice"),
        (["--arms", "cnn", "cnn", "--output", "x"], "arm 'cnn' is given twice"),
        (["--games", "Pong", "--output", "runs/mine"], "holds a comparison of its own"),
        (["--figures", "gif"], "figures is gif"),
    ],
)
def test_bad_parts_are_one_line(script, written, capsys, tmp_path, args, message):
    folder = written(lambda config: 1.0, games="[Pong]", seeds="[1]").folder
    assert script("report", folder, *args) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()
