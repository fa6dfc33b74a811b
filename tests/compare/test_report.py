"""The report and the TensorBoard page say what is on disk, finished or not."""

from __future__ import annotations

import dataclasses
import re
import shutil

import imageio.v3 as imageio
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from rl_coordconv.compare.collect import load_saved
from rl_coordconv.compare.human import human_normalised


def clearly_better_on_breakout(config):
    """CoordConv wins Breakout by 50 with little spread; on Pong both are the same to within the seed."""
    if config.game == "Breakout":
        return 100.0 + config.seed + (50.0 + 0.1 * config.seed if config.arm == "coordconv" else 0.0)
    return -10.0 + ((-1) ** config.seed if config.arm == "coordconv" else 0.0)


def test_report_of_a_finished_comparison(script, written, capsys):
    folder = written(clearly_better_on_breakout).folder
    assert script("report", folder) == 0
    assert "report.html" in capsys.readouterr().out
    text = (folder / "report.md").read_text()
    assert "**Breakout**: coordconv is **better** than cnn (+50.2 [+50.0, +50.4] raw points, 3 paired" in text
    assert "**Pong**: coordconv is **not distinguishable** from cnn" in text
    assert "more seeds per arm would show it" in text
    assert "| Breakout | 10,000 | 102.0 [99.5, 104.5] (n=3) | 152.2" in text
    assert "Read with care" not in text
    for name in re.findall(r"\]\((figures/\w+\.png)\)", text):
        assert imageio.imread(folder / name).std() > 5
    assert len(re.findall(r"!\[", text)) == 5
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert 'src="figures' not in page
    assert "http" not in page


def test_tensorboard_page_holds_every_arm_under_the_same_tags(script, written, curves):
    folder = written(clearly_better_on_breakout).folder
    script("report", folder)
    script("report", folder)  # a second report replaces the first
    cnn, coordconv = (curves(folder / "summary" / arm) for arm in ("cnn", "coordconv"))
    bands = {f"{game}/{name}" for game in ("Breakout", "Pong") for name in ("mean", "lower", "upper")}
    assert set(cnn) == set(coordconv) == bands | {"all games/iqm"}
    assert coordconv["Breakout/mean"][-1] == (10_000, pytest.approx(152.2))
    assert len(coordconv["Breakout/mean"]) == 50
    assert cnn["all games/iqm"][-1][0] == 100
    lowest, highest = human_normalised("Pong", -10), human_normalised("Breakout", 103)
    assert lowest < cnn["all games/iqm"][-1][1] < highest
    events = EventAccumulator(str(folder / "summary" / "cnn"))
    events.Reload()
    [layout] = [events.Tensors(tag)[0] for tag in events.Tags()["tensors"] if "config" in tag]
    page = layout_pb2.Layout.FromString(layout.tensor_proto.string_val[0])
    charts = {chart.title: chart for category in page.category for chart in category.chart}
    assert charts["Pong"].margin.series[0].upper == "Pong/upper"
    assert {"Breakout", "Pong"} < set(charts)


def test_report_of_what_is_there(script, written, write_run):
    comparison = written(clearly_better_on_breakout, seeds="[1, 2]")
    folder = comparison.folder
    shutil.rmtree(folder / "Pong" / "coordconv")
    shutil.rmtree(folder / "Pong" / "cnn" / "seed2")
    shutil.rmtree(folder / "Breakout" / "cnn" / "seed1")
    half = next(job for job in comparison.jobs if (job.game, job.arm, job.seed) == ("Breakout", "cnn", 1))
    write_run(half, 50.0, steps=6_000)
    assert script("report", folder) == 0
    text = (folder / "report.md").read_text()
    assert "Not begun: Pong/cnn/seed2, Pong/coordconv/seed1, Pong/coordconv/seed2." in text
    assert "Not finished, reported as far as they are: Breakout/cnn/seed1." in text
    assert "cut to the first 6,000 steps" in text
    assert "**Pong**" not in text


def test_report_of_a_comparison_that_has_not_begun(script, written):
    folder = written(clearly_better_on_breakout).folder
    for game in ("Breakout", "Pong"):
        shutil.rmtree(folder / game)
    assert script("report", folder) == 0
    assert "nothing to compare yet" in (folder / "report.md").read_text()


def test_one_seed_gives_no_verdict(script, written):
    folder = written(clearly_better_on_breakout, seeds="[1]").folder
    script("report", folder)
    text = (folder / "report.md").read_text()
    assert "without an interval: fewer than two seeds" in text
    assert "**better**" not in text


def test_runs_alone_tell_the_comparison(written):
    comparison = written(clearly_better_on_breakout)
    comparison.file.unlink()
    found = load_saved(comparison.folder)
    assert dataclasses.replace(comparison, jobs=()) == found


@pytest.mark.parametrize("make", [False, True])
def test_no_comparison_is_one_line(script, capsys, tmp_path, make):
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()
    assert script("report", folder) == 2
    assert capsys.readouterr().err.startswith(f"error: '{folder}' ")
    assert [*tmp_path.rglob("report*")] == []
