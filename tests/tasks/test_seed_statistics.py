"""Means, intervals and paired gains on numbers worked out by hand."""

from __future__ import annotations

import pytest

from rl_coordconv.tasks.seed_statistics import print_table, summarise_seeds


def test_one_seed_has_no_interval_and_a_missing_value_no_mean() -> None:
    entry = summarise_seeds({"plain": {1: {"iou": 0.5, "map": None}}})["plain"]
    assert entry["iou"] == {"mean": 0.5, "interval": None}
    assert entry["map"] == {"mean": None, "interval": None}


def test_gains_are_paired_by_seed(capsys: pytest.CaptureFixture[str]) -> None:
    runs = {
        "plain": {1: {"iou": 0.1, "map": None}, 2: {"iou": 0.5, "map": 0.1}, 3: {"iou": 0.3, "map": 0.1}},
        "coordconv": {1: {"iou": 0.3, "map": 0.2}, 2: {"iou": 0.7, "map": 0.2}, 3: {"iou": 0.5, "map": 0.2}},
    }
    summary = summarise_seeds(runs)
    assert "gain" not in summary["plain"]["iou"]
    entry = summary["coordconv"]["iou"]
    assert entry["mean"] == pytest.approx(0.5)
    # The seeds differ by up to 0.4, the gain is 0.2 for all: the paired interval has no width.
    assert entry["gain_interval"] == pytest.approx([0.2, 0.2])
    assert summary["coordconv"]["map"]["gain"] is None
    assert summary["coordconv"]["map"]["mean"] == pytest.approx(0.2)
    # t(0.975, 3 - 1) = 4.3027; standard error 0.2 / sqrt(3)
    assert entry["interval"] == pytest.approx([0.5 - 4.3027 * 0.11547, 0.5 + 4.3027 * 0.11547], abs=1e-3)
    results = {"runs": runs, "summary": summary, "options": {"seeds": [1, 2, 3]}}
    print_table({**results, "measurements": ["iou", "map"]}, "Title", ["map"])
    shown = capsys.readouterr().out
    assert "0.500" in shown
    assert "[0.0032, 0.997]" in shown
    assert "0.300 to 0.700" in shown
    assert "+0.200" in shown
