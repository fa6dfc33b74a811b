"""Means and intervals over seeds, and gains over the baseline paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rl_coordconv.compare.statistics import mean_of_runs

Numbers = dict[str, float | None]


def summarise(runs: dict[str, dict[int, Numbers]]) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Return mean and 95 % interval over seeds per arm and measurement, and of the gain over the first arm.

    The gain is paired by seed: both arms of a pair saw the same data.

    :param runs: Measurements by arm and seed, the baseline first
    :return: ``{arm: {measurement: {"mean", "interval", "gain", "gain_interval"}}}``; intervals are None with
        fewer than three seeds, everything is None where a run could not measure
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    baseline = next(iter(runs))
    for arm, by_seed in runs.items():
        summary[arm] = {}
        for key in next(iter(by_seed.values())):
            entry = _estimate([numbers[key] for numbers in by_seed.values()])
            if arm != baseline:
                pairs = [(numbers[key], runs[baseline][seed][key]) for seed, numbers in by_seed.items()]
                gain = _estimate([None if a is None or b is None else a - b for a, b in pairs])
                entry |= {"gain": gain["mean"], "gain_interval": gain["interval"]}
            summary[arm][key] = entry
    return summary


def _estimate(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "interval": None}
    found = mean_of_runs(np.array(known, dtype=float))
    no_interval = found.is_range or found.low is None
    return {"mean": found.value, "interval": None if no_interval else [found.low, found.high]}


def print_table(
    results: dict[str, Any], title: str, measurements: Sequence[str], ratios: Sequence[str] = ()
) -> None:
    """
    Print means and intervals, a column per arm and one per arm's paired gain over the first.

    :param results: Of an experiment
    :param title: Above the table
    :param measurements: Rows
    :param ratios: Those of which the gain is shown as how many times the baseline's
    """
    summary, seeds = results["summary"], len(results["options"]["seeds"])
    baseline, *others = summary
    gains = [f"{arm} − {baseline}" for arm in others]
    table = Table("", *summary, *gains, title=f"{title}; {seeds} seeds: mean and 95 % interval")
    for key in measurements:
        row = [_cell(summary[arm][key], "mean", "interval") for arm in summary]
        for arm in others:
            if key in ratios and summary[baseline][key]["mean"]:
                row.append(f"× {summary[arm][key]['mean'] / summary[baseline][key]['mean']:.1f}")
            else:
                row.append(_cell(summary[arm][key], "gain", "gain_interval", "+"))
        table.add_row(key, *row)
    # A table cut to 80 columns, as where there is no terminal, could not be read.
    console = Console()
    Console(width=max(console.width, 120)).print(table)


def _cell(entry: dict[str, Any], mean: str, interval: str, sign: str = "") -> str:
    if entry[mean] is None:
        return "–"
    digits = 3 if abs(entry[mean]) < 100 else 0
    bounds = entry[interval] if entry[interval] != [entry[mean]] * 2 else None
    # The backslash keeps rich from reading the interval as markup.
    low_high = f"\n\\[{bounds[0]:{sign}.{digits}f}, {bounds[1]:{sign}.{digits}f}]" if bounds else ""
    return f"{entry[mean]:{sign},.{digits}f}{low_high}"
