"""
The TensorBoard page of a comparison: every game's arms in one chart, mean with band, and all games together.

On disk, under ``runs/<name>/summary/``: one run per arm, with the tags

    <game>/mean, <game>/lower, <game>/upper          raw return over steps, see ``games.curve_band``
    all games/iqm, all games/lower, all games/upper  human-normalised IQM over percent of the steps

and a *Custom Scalars* page that draws mean and band of all arms in one chart per game.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from rl_coordconv.compare.analysis import Analysis
from rl_coordconv.compare.games import GameResult
from rl_coordconv.files import atomic_folder

IQM_TAGS = ["all games/iqm", "all games/lower", "all games/upper"]


def write_page(analysis: Analysis, folder: Path) -> None:
    """
    Write the page anew.

    :param analysis: From ``analyse``
    :param folder: ``runs/<name>/summary``; what an earlier report wrote there is replaced
    """
    with atomic_folder(folder, "TensorBoard page", replace=True) as draft:
        for arm in analysis.comparison.arms:
            writer = SummaryWriter(str(draft / arm))
            for result in analysis.games:
                if arm in result.arms:
                    _write_band(writer, _tags(result), result.grid, result.arms[arm].curve)
            if arm in analysis.overall:
                curve = analysis.overall[arm].curve
                _write_band(writer, IQM_TAGS, 100 * np.arange(1, curve.shape[1] + 1) / curve.shape[1], curve)
            if arm == analysis.comparison.arms[0]:
                writer.add_custom_scalars(_layout(analysis))
            writer.close()


def _tags(result: GameResult) -> list[str]:
    return [f"{result.game}/{name}" for name in ("mean", "lower", "upper")]


def _write_band(writer: SummaryWriter, tags: Sequence[str], along: np.ndarray, curve: np.ndarray) -> None:
    for tag, values in zip(tags, curve, strict=True):
        for step, value in zip(along, values, strict=True):
            if np.isfinite(value):
                writer.add_scalar(tag, value, round(step))


def _layout(analysis: Analysis) -> dict[str, dict[str, list[Any]]]:
    """Return one margin chart per game and a line chart of all games."""
    games: dict[str, list[Any]] = {result.game: ["Margin", _tags(result)] for result in analysis.games}
    together = {"human-normalised IQM over percent of the steps": ["Margin", IQM_TAGS]}
    return {"raw return over steps: mean and band of the arms": games, "all games": together}
