"""
Scores and curves of runs as tidy tables, for other programs and for reports without the runs.

On disk, under ``runs/<name>/`` and in a folder of recorded scores::

    scores.csv    one row per run: comparison, game, arm, seed, state, how far and how fast, scores, machine
    curves.csv    one row per run and point: comparison, game, arm, seed, step, return_mean,
                  coord_weight_ratio:<layer>

``n_games`` are those of the final evaluation. ``score_train_mean`` is of the last tenth of the run's own
steps, ``return_mean`` of the last tenth before each of up to 50 points. A value that is not there is empty.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from rl_coordconv.compare.comparison import CURVES_CSV, SCORES_CSV
from rl_coordconv.compare.rundata import RunData, step_grid
from rl_coordconv.errors import UserError
from rl_coordconv.files import atomic_path
from rl_coordconv.runs.folder import Progress

RUN = ("comparison", "game", "arm", "seed")
PROGRESS = ("steps_per_second", "attempts", "cause", "exit_reason")
SCORE = ("n_games", "score_eval_mean", "score_train_mean")
MACHINE = ("device", "cpu", "torch", "rl-coordconv", "precision", "compile")
SCORES_COLUMNS = (*RUN, "state", "step", "total_timesteps", *SCORE, *PROGRESS, *MACHINE, "foreign")
CURVES_COLUMNS = (*RUN, "step", "return_mean")
# Without these there is no run; other columns may be missing from an older table.
NEEDED = (*RUN, "state", "step", "total_timesteps")
COORD_USE = "coord_weight_ratio:"
Row = Mapping[str, object]


def write_csv(runs: Sequence[RunData], folder: Path) -> None:
    """
    Write ``curves.csv``, then ``scores.csv``, so that a run with a score has its curve.

    :param runs: All runs to be in them
    :param folder: Where
    """
    layers = list(dict.fromkeys(layer for run in runs for layer in run.coord_use))
    columns = [*CURVES_COLUMNS, *(f"{COORD_USE}{layer}" for layer in layers)]
    _write(folder / CURVES_CSV, columns, (row for run in runs for row in _curve(run)))
    _write(folder / SCORES_CSV, SCORES_COLUMNS, map(_score, runs))


def read_csv(folder: Path) -> list[RunData]:
    """
    Return the runs that :func:`write_csv` wrote.

    :param folder: Where; without ``scores.csv`` there are none
    :raises UserError: A file is missing or damaged
    """
    if not (folder / SCORES_CSV).is_file():
        return []
    rows = [dict.fromkeys(SCORES_COLUMNS, "") | row for row in _read(folder / SCORES_CSV, NEEDED)]
    curves: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in _read(folder / CURVES_CSV, CURVES_COLUMNS):
        curves.setdefault(_key(row), []).append(row)
    return [_run(row, curves.get(_key(row), []), folder) for row in rows]


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in RUN)


def _score(run: RunData) -> Row:
    progress = dataclasses.asdict(run.progress)
    return {
        **_identity(run),
        "state": run.progress.state,
        "step": run.last_step,
        "total_timesteps": run.total_steps,
        "n_games": run.eval_games or "",
        "score_eval_mean": _digits(run.eval_score),
        "score_train_mean": _digits(run.train_score),
        **{name: progress[name] for name in PROGRESS},
        "steps_per_second": round(run.progress.steps_per_second, 1),
        **{name: run.machine.get(name, "") for name in MACHINE},
        "foreign": int(run.foreign),
    }


def _curve(run: RunData) -> Iterator[Row]:
    for point, step in enumerate(run.grid):
        use = {f"{COORD_USE}{layer}": _digits(values[point]) for layer, values in run.coord_use.items()}
        yield {
            **_identity(run),
            "step": round(step),
            "return_mean": _digits(run.returns[point]),
            **use,
        }


def _identity(run: RunData) -> dict[str, object]:
    return {"comparison": run.comparison, "game": run.game, "arm": run.arm, "seed": run.seed}


def _digits(value: float | None) -> str:
    """Return a number for a table; seven digits keep the file small and lose nothing that a run can tell."""
    return "" if value is None or not np.isfinite(value) else f"{value:.7g}"


def _run(row: Mapping[str, str], curve: Sequence[Mapping[str, str]], folder: Path) -> RunData:
    def number(text: str) -> float | None:
        return float(text) if text else None

    def column(name: str) -> np.ndarray:
        return np.array([float(point[name] or "nan") for point in curve])

    try:
        progress = Progress(
            row["state"],  # type: ignore[arg-type]
            int(row["step"]),
            float(row["steps_per_second"] or 0),
            attempts=int(row["attempts"] or 0),
            cause=row["cause"],  # type: ignore[arg-type]
            exit_reason=row["exit_reason"],
        )
        layers = [name for name in (curve[0] if curve else {}) if name.startswith(COORD_USE)]
        use = {name.removeprefix(COORD_USE): column(name) for name in layers}
        return RunData(
            row["comparison"],
            row["game"],
            row["arm"],
            int(row["seed"]),
            progress=progress,
            total_steps=int(row["total_timesteps"]),
            grid=_grid(column("step"), int(row["total_timesteps"])),
            returns=column("return_mean"),
            train_score=number(row["score_train_mean"]),
            eval_score=number(row["score_eval_mean"]),
            eval_games=int(row["n_games"] or 0),
            coord_use={layer: values for layer, values in use.items() if np.isfinite(values).all()},
            machine={name: row[name] for name in MACHINE if row[name]},
            foreign=row["foreign"] == "1",
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"'{folder}': {'/'.join(row[name] or '?' for name in RUN)}: {error}") from None


def _grid(steps: np.ndarray, total: int) -> np.ndarray:
    """Return the points of a curve as they were before they were rounded for the table."""
    exact = step_grid(total)[: len(steps)]
    return exact if len(exact) == len(steps) and np.abs(exact - steps).max(initial=0) <= 0.5 else steps


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
        lines = list(csv.reader(io.StringIO(text)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{path}' cannot be read: {error}") from None
    header = lines.pop(0) if lines else []
    if missing := [name for name in columns if name not in header]:
        raise UserError(f"'{path}', line 1, lacks {', '.join(missing)}")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise UserError(f"'{path}', line {number}, has {len(line)} values for {len(header)} columns")
    if not text.endswith("\n"):
        raise UserError(f"'{path}' is cut off: its last line does not end")
    return [dict(zip(header, line, strict=True)) for line in lines]


def _write(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
