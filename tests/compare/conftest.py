"""Comparisons on disk: real run folders whose games are written down, so that the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from rl_coordconv.compare import report
from rl_coordconv.compare.analysis import Analysis
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.matrix import load_comparison
from rl_coordconv.config import RunConfig
from rl_coordconv.runs.bias_maps import bias_picture
from rl_coordconv.runs.folder import Progress, RunFolder

STEPS = 10_000


@pytest.fixture(autouse=True)
def all_figures_coarse(coarse_figures: None) -> None:
    """The demo's test draws a report as it is."""


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out of reports of which they are not what is tested."""

    def draw_none(_: Analysis, folder: Path, *__: object) -> dict[str, list[Path]]:
        folder.mkdir(exist_ok=True)  # without it a report is not whole
        return {}

    monkeypatch.setattr(report, "draw_all", draw_none)


@pytest.fixture
def matrix_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a matrix of two arms and return the file."""

    def write(text: str = "", games: str = "[Breakout, Pong]", seeds: str = "[1, 2, 3, 4]") -> Path:
        file = tmp_path / "mine.yaml"
        common = f"{{algo: ppo, total_timesteps: {STEPS}, device: cpu}}"
        arms = "{cnn: {extractor: cnn}, coordconv: {extractor: coordconv}}"
        lines = {
            "games": games,
            "seeds": seeds,
            "output": str(tmp_path / "runs"),
            "common": common,
            "arms": arms,
        }
        lines |= dict(line.split(": ", 1) for line in text.splitlines())
        file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value != "-"))
        return file

    return write


@pytest.fixture
def written(matrix_file: Callable[..., Path]) -> Callable[..., Comparison]:
    """Write finished runs that end at ``score(config)``, and return their comparison."""

    def write(score: Callable[[RunConfig], float], steps: int = STEPS, **kwargs: str) -> Comparison:
        comparison = load_comparison(matrix_file(**kwargs))
        comparison.save()
        for config in comparison.runs:
            write_run(config, score(config), steps)
        return comparison

    return write


def write_run(config: RunConfig, final: float, steps: int = STEPS) -> None:
    """Write a run whose games end every 100 steps, with returns that rise evenly to ``final``, then stay."""
    run = RunFolder(config.folder)
    run.create(config)
    run.keep_games_until(0, config.game)
    games = range(100, steps + 1, 100)
    rising = ((final * min(1.0, step / (0.8 * STEPS)), step) for step in games)
    run.append_games(({"r": value, "l": 100, "t": 1.0}, step) for value, step in rising)
    if config.extractor == "coordconv":
        picture = bias_picture(torch.linspace(-1, 1, 2 * 7 * 7).view(2, 7, 7))
        with SummaryWriter(str(run.path)) as writer:
            for step in (STEPS // 2, STEPS):
                writer.add_scalar("coordconv/cnn.0/coord_weight_ratio", 0.1, min(step, steps))
                run.append_coordinates(min(step, steps), {"cnn.0": 0.1})
                writer.add_image("coordconv/cnn.0/positional_bias", picture, step, dataformats="HWC")
    run.write_progress(Progress("running", steps, 1000.0, attempts=1))
    if steps >= STEPS:
        run.append_evaluation({"step": steps, "returns": [final] * 20, "lengths": [100] * 20})
        run.final_model.write_bytes(b"")


@pytest.fixture(name="write_run")
def write_run_fixture() -> Callable[..., None]:
    """The function above, for tests that want one run more."""
    return write_run
