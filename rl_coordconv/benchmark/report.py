"""A benchmark's result as rows, a Markdown table and a bar chart."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rl_coordconv.benchmark.measure import BENCHMARKS
from rl_coordconv.files import atomic_path
from rl_coordconv.markdown import markdown_table


@dataclass(frozen=True)
class Row:
    """
    A peer in one case.

    :param rate: Median, lowest and highest rate per second of all rounds
    :param ratio: The same of the ratio to the reference within a round; None without a reference
    :param memory: Largest memory in MB, of the main process or the GPU
    """

    case: str
    peer: str
    rate: tuple[float, float, float]
    ratio: tuple[float, float, float] | None
    memory: float


def summarise_rounds(result: dict[str, Any]) -> list[Row]:
    """
    Return a row per case and peer, as last measured.

    :param result: A benchmark's JSON file
    """
    reference = BENCHMARKS[result["what"]].reference
    rows: dict[tuple[str, str], Row] = {}
    for session in sessions(result):
        for case, peers in session["rounds"].items():
            base = [value["rate"] for value in peers.get(reference, ())]
            for peer, values in peers.items():
                rates = [value["rate"] for value in values]
                ratios = [rate / other for rate, other in zip(rates, base, strict=True)] if base else []
                ratio = middle_and_ends(ratios) if ratios else None
                row = Row(case, peer, middle_and_ends(rates), ratio, values[-1]["memory"])
                rows.setdefault((case, peer), row)
    cases = list(dict.fromkeys(case for case, _ in rows))
    return sorted(rows.values(), key=lambda row: cases.index(row.case))


def sessions(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was measured in turns, each with its command and date, the newest first."""
    return [result, *result.get("earlier", ())]


def with_earlier(result: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """
    Return a benchmark's result with what was measured before and not again.

    An earlier session stays whole, as ratios are taken within it.

    :param result: What was just measured
    :param before: The JSON file that it replaces
    """
    known, earlier = measured_pairs(result), []
    for session in sessions(before):
        if measured_pairs(session) - known:
            known |= measured_pairs(session)
            earlier.append({key: value for key, value in session.items() if key != "earlier"})
    return {**result, "earlier": earlier} if earlier else result


def measured_pairs(session: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the cases and peers of a session."""
    return {(case, peer) for case, peers in session["rounds"].items() for peer in peers}


def middle_and_ends(values: list[float]) -> tuple[float, float, float]:
    """Return median, smallest and largest."""
    return statistics.median(values), min(values), max(values)


def markdown(result: dict[str, Any]) -> str:
    """Return a benchmark's result as a Markdown table."""
    benchmark = BENCHMARKS[result["what"]]
    ratio = f"ratio to {benchmark.reference} [min, max]"
    memory = "memory of main process or GPU, MB"
    rows = [
        [
            row.case,
            row.peer,
            "{:,.0f} [{:,.0f}, {:,.0f}]".format(*row.rate),
            written(row),
            f"{row.memory:,.0f}",
        ]
        for row in summarise_rounds(result)
    ]
    return markdown_table(["case", "peer", f"{benchmark.unit} [min, max]", ratio, memory], rows)


def written(row: Row) -> str:
    """Return a row's ratio as text."""
    return "-" if row.ratio is None else "{:.2f} [{:.2f}, {:.2f}]".format(*row.ratio)


def plot(result: dict[str, Any], path: Path) -> None:
    """Write a bar chart of the ratios, a panel per case."""
    benchmark, rows = BENCHMARKS[result["what"]], [row for row in summarise_rounds(result) if row.ratio]
    cases = list(dict.fromkeys(row.case for row in rows))
    height = sum(0.6 + 0.25 * sum(row.case == case for row in rows) for case in cases)
    figure = Figure(figsize=(8, 0.8 + height), layout="constrained")
    panels = figure.subplots(max(1, len(cases)), sharex=True, squeeze=False)
    for axes, case in zip(panels[:, 0], cases, strict=False):
        for row in (row for row in rows if row.case == case):
            assert row.ratio is not None
            middle, low, high = row.ratio
            colour = "tab:orange" if "coordconv" in row.peer else "tab:blue"
            bars = axes.barh(row.peer, middle, xerr=[[middle - low], [high - middle]], color=colour)
            axes.bar_label(bars, [f"{middle:.2f}"], padding=6, fontsize=8)
        axes.axvline(1.0, color="black", lw=0.8)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_title(case, fontsize=9, loc="left")
    panels[-1, 0].set_xlabel(f"{benchmark.unit}, ratio to {benchmark.reference} (median; line: min to max)")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
