"""Means and intervals over seeds, and gains over the plain arm paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

Numbers = dict[str, float | None]
BASELINE = "plain"


def summarise(runs: dict[str, dict[int, Numbers]]) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Return mean and 95 % interval over seeds per arm and measurement, and of the gain over the baseline.

    The gain is paired by seed: both arms of a pair saw the same data.

    :param runs: Measurements by arm and seed
    :return: ``{arm: {measurement: {"mean", "interval", "gain", "gain_interval"}}}``; intervals are None with
        fewer than two seeds, everything is None where a run could not measure
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    baseline = runs.get(BASELINE, {})
    for arm, by_seed in runs.items():
        summary[arm] = {}
        for key in next(iter(by_seed.values())):
            values = [numbers[key] for numbers in by_seed.values()]
            entry = dict(zip(("mean", "interval"), mean_interval(values), strict=True))
            if arm != BASELINE and baseline:
                gains = [_difference(numbers[key], baseline[seed][key]) for seed, numbers in by_seed.items()]
                entry |= dict(zip(("gain", "gain_interval"), mean_interval(gains), strict=True))
            summary[arm][key] = entry
    return summary


def _difference(value: float | None, baseline: float | None) -> float | None:
    return None if value is None or baseline is None else value - baseline


def mean_interval(values: Sequence[float | None]) -> tuple[float | None, list[float] | None]:
    """
    Return the mean and its 95 % interval by Student's t, which is wide with few seeds, as it should be.

    :param values: One per seed; a None among them leaves nothing to say
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None, None
    mean = float(np.mean(known))
    if len(known) < 2:
        return mean, None
    half = float(stats.t.ppf(0.975, len(known) - 1) * np.std(known, ddof=1) / math.sqrt(len(known)))
    return mean, [mean - half, mean + half]


def print_table(results: dict[str, Any], title: str, measurements: Sequence[str]) -> None:
    """
    Print means and intervals, a column per arm and one per paired gain over the baseline.

    :param results: Of an experiment
    :param title: Above the table
    :param measurements: Rows
    """
    summary, seeds = results["summary"], results["options"]["seeds"]
    others = [arm for arm in summary if arm != BASELINE]
    gains = [f"{arm} − {BASELINE}" for arm in others]
    table = Table("", *summary, *gains, title=f"{title}; {seeds} seeds: mean and 95 % interval")
    for key in measurements:
        means = [_cell(summary[arm][key], "mean", "interval") for arm in summary]
        table.add_row(
            key, *means, *(_cell(summary[arm][key], "gain", "gain_interval", "+") for arm in others)
        )
    Console().print(table)


def _cell(entry: dict[str, Any], mean: str, interval: str, sign: str = "") -> str:
    if entry[mean] is None:
        return "–"
    bounds = entry[interval]
    # The backslash keeps rich from reading the interval as markup.
    low_high = f"\n\\[{bounds[0]:{sign}.3f}, {bounds[1]:{sign}.3f}]" if bounds else ""
    return f"{entry[mean]:{sign}.3f}{low_high}"
