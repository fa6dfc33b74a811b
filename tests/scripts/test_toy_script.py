"""``scripts/toy.py``: what it leaves on disk; bad input is one line, exit code 2 and nothing written."""

from __future__ import annotations

import json

import imageio.v3 as imageio
import pytest

from rl_coordconv.cli import gather_list

SMALL = ("--canvas", 16, "--square", 3, "--device", "cpu")


def test_both_networks_a_table_and_a_figure(script, capsys, tmp_path):
    args = ("regression", "--split", "quadrant", *SMALL, "--seeds", 1, 2, "--updates", 20)
    assert script("toy", *args) == 0
    output = capsys.readouterr().out
    assert "906" in output
    assert "×" in output
    assert "figure.png" in output
    assert "note: " not in output, "all updates were done"
    folder = tmp_path / "runs" / "toy" / "regression" / "quadrant"
    results = {path.parent: json.loads(path.read_text()) for path in folder.rglob("result.json")}
    assert {str(path.relative_to(folder)) for path in results} == {
        "coordconv/seed1",
        "coordconv/seed2",
        "conv/seed1",
        "conv/seed2",
    }
    for path, result in results.items():
        assert {"test_score", "train_score", "parameters", "seconds"} <= set(result)
        assert list(path.glob("events.out.tfevents.*"))
    picture = imageio.imread(folder / "figure.png")
    assert picture.std() > 10


@pytest.mark.slow
def test_all_runs_every_task_and_split_within_its_budget(script, capsys, tmp_path):
    assert script("toy", "all", *SMALL, "--budget", 5, "--output", "here") == 0
    results = [json.loads(path.read_text()) for path in (tmp_path / "here").rglob("result.json")]
    assert len(results) == 3 * 2 * 2
    assert sum(result["seconds"] for result in results) < 20
    assert sum(result["seconds_allowed"] for result in results) == pytest.approx(5, abs=0.1)
    assert len(list((tmp_path / "here").rglob("figure.png"))) == 6
    out = capsys.readouterr().out
    assert out.count("training_seconds") == 6
    assert "note: conv was stopped by its 0.417 s at " in out


def test_further_seeds_have_as_long_as_those_before(script, tmp_path):
    args = ("rendering", *SMALL, "--updates", 2, "--width", 1, "--budget", 9)
    for seeds in ("[1]", "[1,2]"):
        assert script("toy", *args, "--seeds", seeds) == 0
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("result.json")]
    assert [result["seconds_allowed"] for result in results] == [4.5] * 4


def test_all_arms_are_both_stacks_with_and_without_coordinates(script, tmp_path):
    assert script("toy", "rendering", *SMALL, "--arch", "all", "--updates", 2, "--width", 1) == 0
    results = json.loads((tmp_path / "runs/toy/rendering/quadrant/results.json").read_text())
    assert list(results["runs"]) == ["coordconv", "coordconv-blind", "conv", "conv-coords"]
    counts = {arm: runs["1"]["parameters"] for arm, runs in results["runs"].items()}
    assert counts["coordconv"] > counts["coordconv-blind"]
    assert counts["conv-coords"] > counts["conv"]


def test_finished_runs_are_kept_and_other_options_refused(script, capsys, tmp_path):
    args = ("classification", *SMALL, "--updates", 3)
    assert script("toy", *args, "--arch", "coordconv") == 0
    folder = tmp_path / "runs" / "toy" / "classification" / "quadrant"
    before = (folder / "coordconv" / "seed1" / "result.json").read_bytes()
    assert script("tasks", "toy", *args, "--arch", "both") == 0
    assert (folder / "coordconv" / "seed1" / "result.json").read_bytes() == before
    assert (folder / "conv" / "seed1" / "result.json").is_file()
    assert script("toy", *args, "--width", 1) == 2
    assert "holds an experiment with width 2, not 1" in capsys.readouterr().err


BAD = {
    "no task": ([], "task"),
    "unknown task": (["clasification"], "unknown task 'clasification'"),
    "nearest task": (["regresion"], "did you mean 'regression'?"),
    "unknown split": (["rendering", "--split", "quadrat"], "did you mean 'quadrant'?"),
    "unknown arch": (["rendering", "--arch", "cordconv"], "did you mean 'coordconv'?"),
    "unknown option": (["rendering", "--sede", "1"], "did you mean"),
    "square larger than canvas": (["rendering", "--canvas", "16", "--square", "17"], "larger than canvas 16"),
    "even square": (["rendering", "--square", "8"], "odd"),
    "negative canvas": (["rendering", "--canvas", "-4"], "canvas is -4"),
    "canvas for the plain network": (["rendering", "--canvas", "48"], "power of two"),
    "no seeds": (["rendering", "--seeds"], "seeds has no value"),
    "empty seeds": (["rendering", "--seeds", "[]"], "seeds is empty"),
    "same seed twice": (["rendering", "--seeds", "1", "1"], "different"),
    "seed that is no number": (["rendering", "--seeds", "1", "x"], "seeds"),
    "budget of zero": (["rendering", "--budget", "0"], "budget is 0"),
    "negative budget": (["rendering", "--budget", "-3"], "budget is -3"),
    "endless budget": (["rendering", "--budget", "inf"], "budget is inf"),
    "budget not a number": (["rendering", "--budget", "nan"], "budget is nan"),
    "weight decay": (["rendering", "--weight-decay", "-1"], "weight_decay is -1"),
    "updates": (["rendering", "--updates", "0"], "updates is 0"),
    "width": (["rendering", "--width", "0"], "width is 0"),
    "filter": (["rendering", "--filter", "7"], "2, 3 or 4"),
    "absent device": (["rendering", "--device", "cuda:99"], "cuda:99"),
}


@pytest.mark.parametrize(("args", "says"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_writes_nothing(args, says, refused):
    assert says in refused("toy", *args)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["a", "--seeds", "1", "2", "--x", "3"], ["a", "--seeds=[1,2]", "--x", "3"]),
        (["a", "--seeds", "[1,2]"], ["a", "--seeds=[1,2]"]),
        (["a", "--seeds=4"], ["a", "--seeds=[4]"]),
        (["a", "--seeds", "1", "--x", "--seeds=2"], ["a", "--seeds=[1,2]", "--x"]),
        (["--seeds", "1", "2", "--x", "--seeds=[3]"], ["--seeds=[3]", "--x"]),
        (["--seeds", "1", "-h"], ["--seeds=[1]", "-h"]),
        (["--seeds", "null"], ["--seeds=null"]),
        (["a"], ["a"]),
    ],
)
def test_list_options_take_words(args, expected):
    assert gather_list(args, "--seeds") == expected


def test_words_of_text_stay_what_they_are():
    args = ["--x", "cnn=CNN, plain", "runs/a,b", "b: c"]
    assert gather_list(args, "--x", text=True) == ['--x=["cnn=CNN, plain","runs/a,b","b: c"]']
