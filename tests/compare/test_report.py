"""The report and the TensorBoard page say what is on disk, finished or not."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from known_scores import clearly_better_on_breakout, rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from rl_coordconv.compare import figures
from rl_coordconv.compare.analysis import analyse
from rl_coordconv.compare.collect import Collected
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.human import REFERENCE, human_normalised
from rl_coordconv.compare.matrix import load_comparison
from rl_coordconv.compare.report import report_text
from rl_coordconv.compare.rundata import RunData, step_grid
from rl_coordconv.compare.wording import verdict_lines
from rl_coordconv.runs.folder import Progress, RunFolder

ROOT = Path(__file__).parents[2]


def text_of(folder):
    return report_text(analyse(Comparison.load(folder)), {})


def test_report_of_a_finished_comparison(script, written, capsys):
    folder = written(clearly_better_on_breakout).folder
    assert script("report", folder) == 0
    assert "report.html" in capsys.readouterr().out
    text = (folder / "report.md").read_text()
    assert (
        "**Breakout**: coordconv is **better** than cnn (+50.2 [+50.0, +50.5] raw points, 4 paired seeds, p"
        in text
    )
    assert "**Pong**: coordconv is not distinguishable from cnn" in text
    assert "2 better, 0 worse, 1 undecided of 3 questions" in text
    assert "seeds per arm if the difference is at its far end" in text
    assert "| Breakout | 10,000 | eval | cnn | 102.5 [100.4, 104.6] | 102.5 | 102.5 |  | 4 | 398.0 |" in text
    assert "Interim" not in text
    assert text.index("**All games**") < text.index("questions") < text.index("**Breakout**")
    for name in re.findall(r"\]\((figures/\w+\.png)\)", text):
        assert imageio.imread(folder / name).std() > 5
    assert len(re.findall(r"!\[", text)) == 8
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 8
    assert 'src="figures' not in page
    assert "http" not in page


@pytest.mark.usefixtures("no_figures")
def test_what_was_removed_from_a_report_is_written_again(script, written):
    folder = written(clearly_better_on_breakout, games="[Pong]", seeds="[1, 2]").folder
    for part in ("report.html", "report.md", "figures", "summary"):
        assert script("report", folder) == 0
        target = folder / part
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        assert script("report", folder) == 0
        assert target.exists()


def test_of_many_questions_those_undecided_are_left_to_the_table(written):
    arms = "{cnn: {extractor: cnn}, " + ", ".join(f"a{n}: {{features_dim: {n}}}" for n in range(2, 23)) + "}"

    def one_arm_better(config):
        return config.seed + (500.0 if config.arm == "a2" else 0.0)

    text = text_of(written(one_arm_better, text=f"arms: {arms}", games="[Pong]").folder)
    assert "1 better, 0 worse, 20 undecided of 21 questions" in text
    assert "undecided on a game are in the table below" in text
    assert text.count("* **Pong**") == 1


def test_curves_name_every_arm_and_show_single_runs_and_published_scores(written):
    def near_the_published_score(config):
        return 396.0 + config.seed if config.game == "Breakout" else 10.0 + config.seed

    comparison = written(near_the_published_score, seeds="[1, 2, 3]")
    analysis = analyse(Comparison.load(comparison.folder))
    figure = figures.learning_curves(analysis, analysis.games)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["cnn", "coordconv", "RL Zoo ppo, 10 M steps"]
    breakout = figure.axes[0].get_lines()
    assert sum(line.get_linewidth() == 0.5 for line in breakout) == 6
    [dashed] = [line for line in breakout if line.get_linestyle() == "--"]
    assert set(dashed.get_ydata()) == {398}
    figure.draw_without_rendering()
    assert "5k" in [label.get_text() for label in figure.axes[0].get_xticklabels()]


def test_the_axis_of_a_profile_has_round_scores():
    assert figures.round_scores(-0.1, 2.4) == [0, 0.25, 0.5, 0.75, 1, 2]
    assert figures.round_scores(-30, 5_000) == [-10, -1, 0, 1, 10, 100, 1000]


def test_many_games_make_pages(written, monkeypatch):
    monkeypatch.setattr(figures, "GAMES_PER_PAGE", 1)
    folder = written(clearly_better_on_breakout, seeds="[1]").folder
    pages = figures.draw_all(analyse(Comparison.load(folder)), folder / "figures")["Learning curves"]
    assert [page.name for page in pages] == ["learning_curves.png", "learning_curves_2.png"]
    monkeypatch.undo()
    figures.draw_all(analyse(Comparison.load(folder)), folder / "figures")
    assert pages[0].exists()
    assert not pages[1].exists()


@pytest.mark.usefixtures("no_figures")
def test_tensorboard_page_holds_every_arm_under_the_same_tags(script, written, curves):
    folder = written(clearly_better_on_breakout).folder
    script("report", folder)
    script("report", folder)  # a second report replaces the first
    cnn, coordconv = (curves(folder / "summary" / arm) for arm in ("cnn", "coordconv"))
    bands = {f"{game}/{name}" for game in ("Breakout", "Pong") for name in ("mean", "lower", "upper")}
    together = {f"all games/{name}" for name in ("iqm", "lower", "upper")}
    assert set(cnn) == set(coordconv) == bands | together
    assert coordconv["Breakout/mean"][-1] == (10_000, pytest.approx(152.75))
    assert len(coordconv["Breakout/mean"]) == 50
    assert cnn["all games/iqm"][-1][0] == 100
    lowest, highest = human_normalised("Pong", -10), human_normalised("Breakout", 104)
    assert lowest < cnn["all games/iqm"][-1][1] < highest
    events = EventAccumulator(str(folder / "summary" / "cnn"))
    events.Reload()
    [layout] = [events.Tensors(tag)[0] for tag in events.Tags()["tensors"] if "config" in tag]
    page = layout_pb2.Layout.FromString(layout.tensor_proto.string_val[0])
    charts = {chart.title: chart for category in page.category for chart in category.chart}
    assert charts["Pong"].margin.series[0].upper == "Pong/upper"
    assert {"Breakout", "Pong"} < set(charts)


def test_report_of_what_is_there(written, write_run):
    comparison = written(clearly_better_on_breakout, seeds="[1, 2]")
    folder = comparison.folder
    shutil.rmtree(folder / "Pong" / "coordconv")
    shutil.rmtree(folder / "Pong" / "cnn" / "seed2")
    shutil.rmtree(folder / "Breakout" / "cnn" / "seed1")
    half = next(run for run in comparison.runs if (run.game, run.arm, run.seed) == ("Breakout", "cnn", 1))
    write_run(half, 50.0, steps=6_000)
    text = text_of(folder)
    assert "Not begun: Pong/cnn/seed2, Pong/coordconv/seed1, Pong/coordconv/seed2." in text
    assert "Not finished, reported as far as they are: Breakout/cnn/seed1." in text
    assert "cut to the first 6,000 steps" in text
    assert "**Pong**" not in text
    assert "**Breakout**: coordconv against cnn: no verdict yet" in text
    assert "undecided of" not in text


def test_use_of_coordinates_is_drawn_of_each_arm_as_far_as_it_is(written, write_run):
    arms = "{cnn: {extractor: cnn}, a: {extractor: coordconv}, b: {extractor: coordconv, n_envs: 4}}"
    comparison = written(lambda config: 1.0, text=f"arms: {arms}", games="[Pong]", seeds="[1]")
    a = next(config for config in comparison.runs if config.arm == "a")
    shutil.rmtree(a.folder)
    write_run(a, 1.0, steps=6_000)
    found = analyse(comparison)
    curves = figures.learning_curves(found, found.games).axes[0].lines
    assert {line.get_xdata()[-1] for line in curves} == {6_000}, "returns are compared at the same steps"
    lines = figures.coordinate_use(found, found.games).axes[0].lines
    assert [(line.get_label()[0], line.get_xdata()[-1]) for line in lines] == [("a", 6_000), ("b", 10_000)]


def test_evaluations_after_unequal_steps_are_not_compared(written):
    arms = "{cnn: {extractor: cnn}, longer: {extractor: cnn, total_timesteps: 20_000}}"
    comparison = written(lambda config: 1.0, text=f"arms: {arms}", games="[Pong]")
    found = analyse(comparison)
    assert found.games[0].score == "train"
    assert any("final evaluations differ in steps" in note for note in found.notes)


def test_three_runs_of_an_arm_give_no_verdict_on_a_game(written):
    comparison = written(clearly_better_on_breakout, games="[Breakout]", seeds="[1, 2, 3, 4, 5]")
    for seed in (4, 5):
        shutil.rmtree(comparison.folder / "Breakout" / "coordconv" / f"seed{seed}")
    found = analyse(dataclasses.replace(comparison, seeds=(1, 2, 3)))
    assert not found.interim
    assert "a verdict takes 4 runs of each arm" in verdict_lines(found)[-1]


def test_scores_and_curves_are_there_as_tables(script, written):
    folder = written(clearly_better_on_breakout).folder
    script("report", folder)
    scores = {(row["game"], row["arm"], row["seed"]): row for row in rows(folder / "scores.csv")}
    assert len(scores) == 16
    one = scores["Breakout", "coordconv", "2"]
    assert (one["comparison"], one["step"], one["n_games"], one["state"]) == (
        "mine",
        "10000",
        "20",
        "finished",
    )
    assert float(one["score_eval_mean"]) == pytest.approx(152.2)
    # The last tenth of training is 11 games that end at 9,000 to 10,000 steps, less the first.
    assert float(one["score_train_mean"]) == pytest.approx(152.2)
    curves = rows(folder / "curves.csv")
    assert len(curves) == 16 * 50
    mine = [row for row in curves if (row["game"], row["arm"], row["seed"]) == ("Breakout", "coordconv", "2")]
    assert [int(row["step"]) for row in mine] == list(range(200, 10_001, 200))
    # Games end every 100 steps and rise evenly until 8,000: those of steps 3,100 to 4,000 count at 4,000.
    assert float(mine[19]["return_mean"]) == pytest.approx(152.2 * np.mean(np.arange(3100, 4001, 100)) / 8000)


def test_the_score_is_the_final_evaluation_unless_training_is_asked_for(written):
    def better_when_evaluated(config):
        return 10.0 + config.seed

    for kind, value in (("eval", 77.0), ("train", 12.5)):
        comparison = written(better_when_evaluated, text=f"score: {kind}", games="[Breakout]")
        for config in comparison.runs:
            RunFolder(config.folder).write_evaluations(
                [{"step": 10_000, "returns": [77.0] * 25, "lengths": []}]
            )
        assert f"| Breakout | 10,000 | {kind} | cnn | {value}" in text_of(comparison.folder)
        shutil.rmtree(comparison.folder)


def test_a_run_without_an_evaluation_leaves_the_scores_and_few_games_are_flagged(written):
    comparison = written(clearly_better_on_breakout)
    first = RunFolder(comparison.runs[0].folder)
    first.evaluations.unlink()
    other = RunFolder(comparison.runs[2].folder)
    other.write_evaluations([{"step": 10_000, "returns": [1.0] * 19, "lengths": []}])
    text = text_of(comparison.folder)
    assert "Breakout: without a final evaluation, so not in the scores: cnn/seed1." in text
    assert "Pong: scores of only 19 games" in text
    assert "no verdict yet" in text
    assert "better" not in text.partition("## ")[2].partition("## ")[0]
    for config in comparison.runs:
        if config.arm == "cnn":
            RunFolder(config.folder).evaluations.unlink(missing_ok=True)
    text = text_of(comparison.folder)
    assert "Breakout: scores are the last training games, as these have no final evaluation" in text


@pytest.mark.usefixtures("no_figures")
def test_failed_diverged_and_unfinished_runs_are_told_apart(script, written):
    comparison = written(clearly_better_on_breakout)
    states = {1: ("failed", "the disk is full"), 2: ("diverged", "loss is nan"), 3: ("running", "")}
    for config in comparison.runs:
        if config.game == "Pong" and config.arm == "cnn" and config.seed in states:
            state, reason = states[config.seed]
            run = RunFolder(config.folder)
            run.final_model.unlink()
            run.write_progress(Progress(state, 9_000, attempts=2, exit_reason=reason))
    script("report", comparison.folder)
    text = (comparison.folder / "report.md").read_text()
    assert "Failed, reported as far as they are: Pong/cnn/seed1 (the disk is full, 2 attempts)." in text
    assert "(curves show the runs that are left): Pong/cnn/seed2 (loss is nan, 2 attempts)." in text
    assert "**Interim**" in text
    assert "**better**" not in text
    assert "Not finished, reported as far as they are: Pong/cnn/seed3 (2 attempts)." in text
    states = {
        (row["game"], row["arm"], row["seed"]): row["state"] for row in rows(comparison.folder / "scores.csv")
    }
    assert states["Pong", "cnn", "2"] == "diverged"


@pytest.mark.usefixtures("no_figures")
def test_report_of_a_comparison_of_version_0_1_0(script, tmp_path):
    folder = tmp_path / "v1"
    shutil.copytree(ROOT / "tests" / "data" / "v1" / "comparison", folder)
    assert script("report", folder) == 0
    text = (folder / "report.md").read_text()
    assert "Not finished, reported as far as they are: Breakout/coordconv/seed1." in text
    states = [(row["arm"], row["step"], row["state"]) for row in rows(folder / "scores.csv")]
    assert states == [("cnn", "400", "finished"), ("coordconv", "0", "unfinished")]
    assert script("train", "--resume", folder / "Breakout" / "coordconv" / "seed1") == 0
    assert script("report", folder) == 0
    states = [(row["arm"], row["n_games"], row["state"]) for row in rows(folder / "scores.csv")]
    assert states == [("cnn", "1", "finished"), ("coordconv", "1", "finished")]


def test_report_of_a_comparison_that_has_not_begun(script, written):
    folder = written(clearly_better_on_breakout).folder
    for game in ("Breakout", "Pong"):
        shutil.rmtree(folder / game)
    assert script("report", folder) == 0
    assert "nothing to compare yet" in (folder / "report.md").read_text()


def test_one_seed_gives_no_verdict(written):
    folder = written(clearly_better_on_breakout, seeds="[1]").folder
    text = text_of(folder)
    assert "fewer than three runs of each arm give no interval" in text
    assert "**better**" not in text


def test_a_diverged_run_counts_as_random_play_and_is_not_waited_for(written):
    comparison = written(clearly_better_on_breakout)
    run = RunFolder(comparison.runs[0].folder)
    run.final_model.unlink()
    run.write_progress(Progress("diverged", 5_000, exit_reason="loss is nan"))
    analysis = analyse(Comparison.load(comparison.folder))
    assert not analysis.interim
    breakout = analysis.games[0]
    assert breakout.arms["cnn"].scores[1] == REFERENCE["Breakout"][0]
    assert breakout.grid[-1] == 10_000
    assert len(breakout.arms["cnn"].singles) == 3


def test_an_arm_of_which_all_runs_diverged_counts_as_random_play_too():
    games = ("Breakout", "Pong", "Unknown")
    comparison = Comparison(Path("mine"), games, ("cnn", "coordconv"), (1, 2, 3, 4), "cnn")
    grid = step_grid(1000)
    runs = []
    for game, arm, seed in itertools.product(games, comparison.arms, comparison.seeds):
        diverged = arm == "coordconv" and game != "Breakout"
        progress = Progress("diverged" if diverged else "finished", 1000)
        curve = np.full(len(grid), 5.0 + seed)
        score = None if diverged else 5.0 + seed
        result = {"grid": grid, "returns": curve, "train_score": score, "eval_score": score, "eval_games": 20}
        runs.append(RunData("mine", game, arm, seed, progress=progress, total_steps=1000, **result))
    analysis = analyse(comparison, Collected(runs, {}, []))
    random = REFERENCE["Pong"][0]
    pong = analysis.games[1].arms["coordconv"]
    assert pong.scores == dict.fromkeys(comparison.seeds, random)
    assert (pong.singles == random).all()
    assert analysis.versus_overall["coordconv"].games == ["Breakout", "Pong"]
    assert np.isfinite(analysis.overall["coordconv"].curve).all()
    assert "coordconv" not in analysis.games[2].arms
    counted, left_out = (note for note in analysis.notes if note.startswith("Diverged"))
    assert "counted as random play" in counted
    assert "Pong/coordconv/seed1" in counted
    assert "Unknown" not in counted
    assert "left out as the score of random play is not known: Unknown/coordconv/seed1" in left_out


def test_a_missing_run_takes_nothing_else_with_it(written):
    comparison = written(clearly_better_on_breakout)
    shutil.rmtree(comparison.folder / "Breakout" / "cnn" / "seed1")
    shutil.rmtree(comparison.folder / "Pong" / "coordconv" / "seed2")
    analysis = analyse(Comparison.load(comparison.folder))
    runs = {
        (result.game, arm): len(ours.scores) for result in analysis.games for arm, ours in result.arms.items()
    }
    assert [*runs.values()] == [3, 4, 4, 3]
    assert analysis.versus_overall["coordconv"].games == ["Breakout", "Pong"]
    assert analysis.versus_overall["coordconv"].difference.low is not None


def test_runs_that_took_off_are_counted(written):
    text = text_of(written(lambda config: 200.0 + config.seed if config.seed > 2 else 2.0).folder)
    assert "Breakout: runs fall into two groups" in text
    assert (
        "Over 2 games, of which some have runs in two groups, the interval of one arm's IQM may hold" in text
    )
    assert "| cnn | 102.8 " in text
    assert "| 2 | 4 |" in text


def test_different_machines_are_noted(written):
    comparison = written(clearly_better_on_breakout, games="[Breakout]")
    for config in comparison.runs:
        if config.arm == "coordconv":
            file = RunFolder(config.folder).path / "versions.json"
            versions = json.loads(file.read_text()) | {"cpu": "Another CPU"}
            file.write_text(json.dumps(versions))
    assert re.search(r"different cpu: .*Another CPU \(4 runs\); not evenly", text_of(comparison.folder))


def test_runs_that_no_comparison_put_together_are_searched_for_other_differences(written):
    comparison = written(clearly_better_on_breakout, games="[Breakout]")
    text = text_of(comparison.folder)
    assert "Trained with different" not in text
    for config in comparison.runs:
        if config.arm == "coordconv":
            file = RunFolder(config.folder).config_file
            file.write_text(file.read_text().replace("learning_rate: 0.00025", "learning_rate: 0.0009"))
    comparison.file.unlink()
    notes = [line for line in text_of(comparison.folder).splitlines() if "Trained with different" in line]
    assert notes == [
        "* Trained with different ppo.learning_rate: 0.00025 (4 runs), 0.0009 (4 runs); not evenly over the "
        "arms."
    ]


def test_a_run_whose_folder_has_lost_its_config_is_named(written):
    comparison = written(clearly_better_on_breakout, games="[Breakout]")
    RunFolder(comparison.runs[0].folder).config_file.unlink()
    text = text_of(comparison.folder)
    assert re.search(r"Breakout/cnn/seed1: left out, as it cannot be read: .* holds no config\.yaml", text)
    assert "Not begun" not in text


def test_a_comparison_loads_as_it_was_saved_or_by_its_runs_alone(written, matrix_file):
    comparison = written(clearly_better_on_breakout)
    load_comparison(matrix_file("score: train")).save()
    assert Comparison.load(comparison.folder) == dataclasses.replace(comparison, runs=(), score="train")
    comparison.file.unlink()
    found = Comparison.load(comparison.folder)
    assert dataclasses.replace(comparison, runs=(), options={}) == found


def test_only_folders_named_by_a_seed_are_runs(tmp_path):
    for name in ("seed1", "seed1_old"):
        (tmp_path / "Pong" / "cnn" / name).mkdir(parents=True)
        (tmp_path / "Pong" / "cnn" / name / "config.yaml").write_text("")
    assert Comparison.load(tmp_path).seeds == (1,)


DAMAGED = [
    f"games: {games}\narms: [cnn]\nseeds: [1]\nbaseline: {baseline}\nforeign: {{}}\noptions: {options}\n"
    for games, baseline, options in (
        ("[Pong]", "cnn", "abc"),
        ("[[Pong]]", "cnn", "{}"),
        ("[Pong]", "no", "{}"),
        ("[Pong]", "cnn", "{cnn: 5}"),
        ("[../x]", "cnn", "{}"),
    )
]
DAMAGED += [text.replace("seeds: [1]", "seeds: [x]").replace("abc", "{}") for text in DAMAGED[:1]]


@pytest.mark.parametrize("text", ["games: [Pong]\n", "games: 3\nforeign: {}\n", "[1]\n", ": :", *DAMAGED])
def test_a_damaged_comparison_is_one_line(script, capsys, tmp_path, text):
    (tmp_path / "comparison.yaml").write_text(text)
    assert script("report", tmp_path) == 2
    assert "comparison.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("make", [False, True])
def test_no_comparison_is_one_line(script, capsys, tmp_path, make):
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()
    assert script("report", folder) == 2
    assert capsys.readouterr().err.startswith(f"error: '{folder}' ")
    assert [*tmp_path.rglob("report*")] == []
