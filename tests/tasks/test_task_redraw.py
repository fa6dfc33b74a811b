"""Figures and tables of the docs come from the committed results, by one command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_coordconv.errors import UserError
from rl_coordconv.tasks.experiment import array_from_json, array_to_json
from rl_coordconv.tasks.redraw import redraw
from rl_coordconv.tasks.seed_statistics import summarise_seeds, summary_table

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PAGES = ("toy.md", "locate.md", "gan.md", "detection.md")


@pytest.mark.usefixtures("coarse_figures")
def test_every_committed_result_draws_its_figure_and_the_table_that_its_page_has(
    script: Callable[..., int], tmp_path: Path
) -> None:
    files = sorted(RESULTS.glob("*.json"))
    for source in (*files, *(RESULTS / page for page in PAGES)):
        shutil.copy(source, tmp_path)
    assert script("tasks", "redraw", *(file.name for file in files)) == 0
    for file in files:
        picture = tmp_path / f"{file.stem}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert (RESULTS / picture.name).is_file(), "its picture is committed"
    text = "".join((RESULTS / page).read_text(encoding="utf-8") for page in PAGES)
    assert [file.name for file in files if f"<!-- table of {file.name} -->" not in text] == []
    for page in PAGES:
        assert (tmp_path / page).read_bytes() == (RESULTS / page).read_bytes(), page


def results(**more: Any) -> dict[str, Any]:
    runs: Any = {
        "plain": {"1": {"score": 0.25, "none": None}, "2": {"score": 0.5, "none": None}},
        "coordconv": {"1": {"score": 1.0, "none": None}, "2": {"score": 1.0, "none": None}},
    }
    return {"runs": runs, "summary": summarise_seeds(runs), "measurements": ["score", "none"], **more}


def test_a_table_has_means_ranges_and_paired_gains_and_leaves_out_what_was_not_measured() -> None:
    assert summary_table(results()).splitlines() == [
        "| measure | plain | coordconv | coordconv − plain |",
        "|---|---|---|---|",
        "| score | 0.375<br>0.250 to 0.500 | 1 | +0.625 |",
    ]
    with_data = summary_table(results(data={"score": -2000.0})).splitlines()
    assert with_data[0].startswith("| measure | data | plain")
    assert with_data[2].startswith("| score | −2,000 | 0.375")


def test_of_yes_or_no_the_runs_are_counted_and_an_interval_that_cannot_be_is_left_out() -> None:
    seconds, solved = [2.0, 3.0, 40.0], [1.0, 0.0, 1.0]
    one = {str(k): {"solved": x, "seconds": y} for k, (x, y) in enumerate(zip(solved, seconds, strict=True))}
    runs: Any = {"plain": one, "coordconv": one}
    summary = summarise_seeds(runs)
    assert summary["plain"]["seconds"]["interval"][0] < 0
    table = summary_table({"runs": runs, "summary": summary, "measurements": ["solved", "seconds"]})
    assert table.splitlines()[2:] == [
        "| solved | 2 of 3 | 2 of 3 |  |",
        "| seconds | 15<br>2 to 40 | 15<br>2 to 40 | +0 |",
    ]


def test_many_arms_are_rows() -> None:
    runs: Any = {f"arm{number}": {"1": {"score": number / 4}} for number in range(4)}
    table = summary_table({"runs": runs, "summary": summarise_seeds(runs), "measurements": ["score"]})
    assert table.splitlines() == [
        "| arm | seeds | score |", "|---|---|---|",
        "| arm0 | 1 | 0 |", "| arm1 | 1 | 0.250 |", "| arm2 | 1 | 0.500 |", "| arm3 | 1 | 0.750 |",
    ]  # fmt: skip


def test_only_the_table_between_its_marks_changes(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(results()))
    page = tmp_path / "page.md"
    page.write_text(
        "before\n\n<!-- table of a.json -->\nold\n<!-- end -->\n\n<!-- table of b.json -->\n<!-- end -->\n"
    )
    assert redraw(tmp_path / "a.json") == [tmp_path / "a.png", page]
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n\n<!-- table of a.json -->\n\n| measure |")
    assert text.endswith("|\n\n<!-- end -->\n\n<!-- table of b.json -->\n<!-- end -->\n")
    assert redraw(tmp_path / "a.json") == [tmp_path / "a.png"]


def test_a_mark_without_an_end_leaves_what_follows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(results()))
    page = tmp_path / "page.md"
    text = "<!-- table of a.json -->\nwords\n<!-- table of b.json -->\nother\n<!-- end -->\n"
    page.write_text(text)
    redraw(tmp_path / "a.json")
    assert page.read_text() == text


def test_a_page_that_is_not_text_is_refused_and_nothing_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(results()))
    (tmp_path / "page.md").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"page\.md' cannot be read"):
        redraw(tmp_path / "a.json")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("text", ['{"runs": ', "[]", "[" * 200_000 + "]" * 200_000])
def test_json_that_is_damaged_or_no_experiments_is_one_line(
    script: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    (tmp_path / "a.json").write_text(text)
    assert script("tasks", "redraw", "a.json") == 2
    assert capsys.readouterr().err == "error: 'a.json' is not the results.json of an experiment\n"


@pytest.mark.parametrize("key", ["options", "samples"])
def test_a_toy_tasks_results_that_do_not_fit_together_are_refused(tmp_path: Path, key: str) -> None:
    damaged = json.loads((RESULTS / "toy_map_quadrant.json").read_text(encoding="utf-8"))
    if key == "options":
        damaged["options"]["seeds"] = []
    else:
        for kept in damaged["samples"].values():
            kept[next(iter(kept))]["history"] = {"shape": [0, 4], "values": ""}
    (tmp_path / "a.json").write_text(json.dumps(damaged))
    with pytest.raises(UserError, match=r"is not the results\.json of an experiment"):
        redraw(tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("damage", [{"measurements": ["other"]}, {"samples": {}}, {"samples": {"plain": 1}}])
def test_damaged_results_are_refused_and_nothing_is_drawn(tmp_path: Path, damage: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(results(**damage)))
    with pytest.raises(UserError, match=r"is not the results\.json of an experiment"):
        redraw(tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_arrays_in_json_keep_three_decimals() -> None:
    array = np.array([[0, 0.12345], [-3.0, 4096]])
    again = array_from_json(json.loads(json.dumps(array_to_json(array))))
    assert again.tolist() == [[0, 0.123], [-3, 4096]]


def test_a_toy_tasks_own_results_draw_the_figure_that_the_run_drew(
    script: Callable[..., int], tmp_path: Path
) -> None:
    small = "--canvas 16 --square 3 --device cpu --updates 2 --arch coordconv --seeds 1 2"
    assert script("toy", "rendering", *small.split()) == 0
    folder = tmp_path / "runs/toy/rendering/quadrant"
    assert script("tasks", "redraw", folder / "results.json") == 0
    assert (folder / "results.png").read_bytes() == (folder / "figure.png").read_bytes()
