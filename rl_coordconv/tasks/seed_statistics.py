"""Means and intervals over seeds, and gains over the baseline paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rl_coordconv.compare.statistics import mean_of_runs
from rl_coordconv.markdown import markdown_table

Numbers = dict[str, float | None]
COLUMN_ARMS = 3  # with more of them, a page's table has a row per arm
YES_OR_NO = ("solved",)  # of these the table says in how many runs


def summarise_seeds(runs: dict[str, dict[int, Numbers]]) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Return mean and 95 % interval over seeds per arm and measurement, and of the gain over the first arm.

    The gain is paired by seed: both arms of a pair saw the same data.

    :param runs: Measurements by arm and seed, the baseline first
    :return: ``{arm: {measurement: {"mean", "interval", "gain", "gain_interval"}}}``; intervals are None with
        fewer than three seeds, everything is None where a run could not measure
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    first, *rest = (numbers for by_seed in runs.values() for numbers in by_seed.values())
    # A run of another version may have measured more.
    keys = [key for key in first if all(key in numbers for numbers in rest)]
    baseline = next(iter(runs))
    for arm, by_seed in runs.items():
        summary[arm] = {}
        for key in keys:
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


def print_table(results: dict[str, Any], title: str, ratios: Sequence[str] = ()) -> None:
    """
    Print means, intervals and ranges, a column per arm and one per arm's paired gain over the first.

    :param results: Of an experiment
    :param title: Above the table
    :param ratios: Measurements of which the gain is shown as how many times the baseline's
    """
    keys, seeds = results["measurements"], len(results["options"]["seeds"])
    columns = {"": keys, **_columns(results, keys, ratios)}
    table = Table(*columns, title=f"{title}; {seeds} seeds: mean, 95 % interval and range")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(cell.replace(" [", "\n[") for cell in row))
    # A table cut to 80 columns, as where there is no terminal, could not be read.
    Console(width=max(Console().width, 120), markup=False).print(table)


def summary_table(results: dict[str, Any]) -> str:
    """
    Return an experiment's table for a page: mean, 95 % interval and range over seeds, and paired gains.

    :param results: Of an experiment
    :return: Lines of Markdown; a row per measurement that any arm has, or a row per arm of many
    """
    summary, runs, data = results["summary"], results["runs"], results.get("data", {})
    keys = [
        key
        for key in results["measurements"]
        if any(arm[key]["mean"] is not None for arm in summary.values())
    ]
    names, columns = [key.replace("_", " ") for key in keys], _columns(results, keys)
    if len(summary) > COLUMN_ARMS:
        head, rows = ["arm", "seeds", *names], [[arm, str(len(runs[arm])), *columns[arm]] for arm in summary]
    else:
        known = {"data": [_number(data[key]) if key in data else "" for key in keys]} if data else {}
        named = {"measure": names, **known, **columns}
        head, rows = [*named], [list(row) for row in zip(*named.values(), strict=True)]
    rows = [[cell.replace("\n", "<br>") for cell in row] for row in rows]
    return markdown_table(head, rows) + "\n"


def _columns(
    results: dict[str, Any], keys: Sequence[str], ratios: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Return a column of cells for each arm and for each gain, by what is to stand above it."""
    summary, runs = results["summary"], results["runs"]
    baseline, *others = summary
    columns = {
        arm: [
            _count([run[key] for run in runs[arm].values()])
            if key in YES_OR_NO
            else _with_range(entries[key], [run[key] for run in runs[arm].values()])
            for key in keys
        ]
        for arm, entries in summary.items()
    }
    for arm in others:
        columns[f"{arm} − {baseline}"] = [
            f"× {summary[arm][key]['mean'] / summary[baseline][key]['mean']:.1f}"
            if key in ratios and summary[baseline][key]["mean"]
            else ""
            if key in YES_OR_NO
            else _with_interval(summary[arm][key]["gain"], summary[arm][key]["gain_interval"], "+")
            for key in keys
        ]
    return columns


def _count(values: Sequence[float]) -> str:
    return f"{sum(map(bool, values))} of {len(values)}"


def shown_interval(entry: dict[str, Any], values: Sequence[float]) -> Sequence[float] | None:
    """
    Return the interval of a mean, unless Student's t does not fit: below 0 where no number is.

    :param entry: Of a summary
    :param values: The runs' numbers
    """
    interval: Sequence[float] | None = entry["interval"]
    return None if interval and interval[0] < 0 <= min(values) else interval


def _with_range(entry: dict[str, Any], values: Sequence[float]) -> str:
    text = _with_interval(entry["mean"], shown_interval(entry, values))
    if entry["mean"] is not None and min(values) < max(values):
        text += f"\n{_number(min(values))} to {_number(max(values))}"
    return text


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
