"""
The TensorBoard page of a comparison: every game's arms in one chart, mean with band, and all games together.

On disk, under ``runs/<name>/summary/``: one run per arm, with the tags

    <game>/mean, <game>/lower, <game>/upper          raw return over steps, see ``games.curve_band``
    all games/iqm, all games/lower, all games/upper  human-normalised IQM over percent of the steps

and a *Custom Scalars* page that draws mean and band of all arms in one chart per game.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from rl_coordconv.compare.analysis import Analysis
from rl_coordconv.compare.games import GameResult

ALL_GAMES = "all games"
BAND = ("mean", "lower", "upper")
IQM_BAND = ("iqm", "lower", "upper")


def write_page(analysis: Analysis, folder: Path) -> None:
    """
    Write the page anew.

    :param analysis: From ``analyse``
    :param folder: ``runs/<name>/summary``; what an earlier report wrote there is replaced
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for arm in analysis.comparison.arms:
        writer = SummaryWriter(str(temporary / arm))
        for result in analysis.games:
            _write_band(writer, result, arm)
        _write_all_games(writer, analysis, arm)
        if arm == analysis.comparison.arms[0]:
            writer.add_custom_scalars(_layout(analysis))
        writer.close()
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _write_band(writer: SummaryWriter, result: GameResult, arm: str) -> None:
    if arm not in result.arms:
        return
    for name, values in zip(BAND, result.arms[arm].curve, strict=True):
        for step, value in zip(result.grid, values, strict=True):
            if np.isfinite(value):
                writer.add_scalar(f"{result.game}/{name}", value, round(step))


def _write_all_games(writer: SummaryWriter, analysis: Analysis, arm: str) -> None:
    """Write the IQM with its band at equal shares of each game's steps."""
    if arm not in analysis.overall:
        return
    curve = analysis.overall[arm].curve
    for name, values in zip(IQM_BAND, curve, strict=True):
        for point, value in enumerate(values, start=1):
            if np.isfinite(value):
                writer.add_scalar(f"{ALL_GAMES}/{name}", value, round(100 * point / len(values)))


def _layout(analysis: Analysis) -> dict[str, dict[str, list[Any]]]:
    """Return one margin chart per game and a line chart of all games."""
    games = {result.game: ["Margin", [f"{result.game}/{name}" for name in BAND]] for result in analysis.games}
    together: dict[str, list[Any]] = {
        "human-normalised IQM over percent of the steps": [
            "Margin",
            [f"{ALL_GAMES}/{name}" for name in IQM_BAND],
        ]
    }
    return {"raw return over steps: mean and band of the arms": games, "all games": together}
