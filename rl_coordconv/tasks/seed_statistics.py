"""Means and intervals over seeds, and gains over the baseline paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rl_coordconv.compare.statistics import mean_of_runs

Numbers = dict[str, float | None]
COLUMN_ARMS = 3  # with more of them, a page's table has a row per arm


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


def markdown_table(results: dict[str, Any]) -> str:
    """
    Return an experiment's table for a page: mean, 95 % interval and range over seeds, and paired gains.

    :param results: Of an experiment
    :return: Lines of Markdown; a row per measurement that any arm has, or a row per arm of many
    """
    summary, runs, data = results["summary"], results["runs"], results.get("data", {})
    baseline, *others = summary
    keys = [
        key
        for key in results["measurements"]
        if any(arm[key]["mean"] is not None for arm in summary.values())
    ]
    cells = {
        arm: [_page_cell(entries[key], [run[key] for run in runs[arm].values()]) for key in keys]
        for arm, entries in summary.items()
    }
    names = [key.replace("_", " ") for key in keys]
    if len(summary) > COLUMN_ARMS:
        rows = [["arm", "seeds", *names]]
        rows += [[arm, str(len(runs[arm])), *row] for arm, row in cells.items()]
    else:
        columns = [["measure", *names]]
        columns += [["data", *(_number(data[key]) if key in data else "" for key in keys)]] if data else []
        columns += [[arm, *column] for arm, column in cells.items()]
        columns += [
            [f"{arm} − {baseline}", *(_page_gain(summary[arm][key]) for key in keys)] for arm in others
        ]
        rows = [list(row) for row in zip(*columns, strict=True)]
    head, *body = [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join([head, "|---" * len(rows[0]) + "|\n", *body])


def _page_cell(entry: dict[str, Any], values: Sequence[float]) -> str:
    text = _with_interval(entry["mean"], entry["interval"])
    if entry["mean"] is not None and min(values) < max(values):
        text += f"<br>{_number(min(values))} to {_number(max(values))}"
    return text


def _page_gain(entry: dict[str, Any]) -> str:
    return _with_interval(entry["gain"], entry["gain_interval"], "+")


def _with_interval(mean: float | None, interval: Sequence[float] | None, sign: str = "") -> str:
    if mean is None:
        return "–"
    ends = (
        f" [{', '.join(_number(end, sign) for end in interval)}]"
        if interval and interval[0] < interval[1]
        else ""
    )
    return _number(mean, sign) + ends


def _number(value: float, sign: str = "") -> str:
    digits = 0 if abs(value) >= 100 or value == round(value) else 4 if abs(value) < 0.1 else 3
    return f"{value:{sign},.{digits}f}".replace("-", "−")
