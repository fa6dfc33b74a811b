"""
Scores that outlive their runs: a folder small enough to commit, filled while a comparison trains.

On disk, e.g. under ``docs/results/<name>/``::

    comparison.yaml    games, arms, seeds and every option of every arm
    scores.csv         one row per run that has ended
    curves.csv         its curve on up to 50 points

A run that is recorded as finished is not trained again, on whatever machine, and ``scripts/report.py FOLDER``
draws the report from the folder alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rl_coordconv.compare.comparison import COMPARISON_YAML, CURVES_CSV, SCORES_CSV, Comparison
from rl_coordconv.compare.foreign import read_foreign
from rl_coordconv.compare.jobs import Job, JobResult
from rl_coordconv.compare.matrix import check_recorded_options
from rl_coordconv.compare.read import read_run
from rl_coordconv.compare.rundata import RunData, is_copy, run_name
from rl_coordconv.compare.tidy import read_csv, write_csv
from rl_coordconv.errors import UserError
from rl_coordconv.files import alone, check_can_hold_files, write_text


class Results:
    """
    The scores of a comparison that are kept.

    :param folder: Where; made with the first score
    :param comparison: What is being compared
    :raises UserError: The folder holds something else, or scores of arms with other options
    """

    def __init__(self, folder: Path, comparison: Comparison) -> None:
        self.folder = folder
        self.name = comparison.folder.name
        self.moved: dict[Path, Path] = {}
        self.comparison = self._with_recorded(comparison)
        self.ended = {run.name for run in read_csv(folder) if run.ended}
        self.seen: set[str] = set()

    def _with_recorded(self, comparison: Comparison) -> Comparison:
        """Return the comparison with the games, arms and seeds that are recorded besides."""
        comparison = dataclasses.replace(comparison, results=self.folder)
        if not self.folder.exists():
            check_can_hold_files(self.folder, "results")
            return comparison
        if not self.folder.is_dir():
            raise UserError(f"results '{self.folder}' is not a folder")
        file = self.folder / COMPARISON_YAML
        if not file.is_file():
            if any((self.folder / name).exists() for name in (SCORES_CSV, CURVES_CSV)):
                raise UserError(f"'{self.folder}' holds scores without {COMPARISON_YAML}, which says of what")
            return comparison
        recorded = Comparison.load(self.folder)
        check_recorded_options(comparison, recorded)
        self.moved = _moved(comparison, recorded, read_csv(self.folder) if recorded.foreign else [])
        return comparison.joined(_renamed(recorded, self.moved))

    def open_jobs(self, jobs: Iterable[Job]) -> list[Job]:
        """Return the jobs whose runs have not ended yet, according to what is recorded."""
        return [job for job in jobs if job.name not in self.ended]

    def record(self, jobs: Iterable[Job], results: Mapping[str, JobResult]) -> None:
        """
        Add the runs that have ended since the last call.

        :param jobs: All jobs
        :param results: Results so far, by job name
        """
        new = [job for job in jobs if job.name in results and job.name not in self.seen]
        self.seen |= {job.name for job in new}
        runs = []
        for job in new:
            if job.run.config_file.is_file() and results[job.name].state in ("finished", "failed"):
                with contextlib.suppress(Exception):  # one that cannot be read: the report names it
                    config = job.config
                    runs.append(read_run(job.run, self.name, config.game, str(config.arm), config.seed))
        self.add(runs)

    def add(self, runs: Sequence[RunData]) -> None:
        """
        Add runs, with what another machine has recorded in the meantime.

        :param runs: Runs that have ended, here or elsewhere
        :raises UserError: The folder cannot be written
        """
        if not runs:
            return
        names = {run.name for run in runs}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with alone(self.folder):
                file = self.folder / COMPARISON_YAML
                if file.is_file():
                    recorded = _renamed(Comparison.load(self.folder), self.moved)
                    self.comparison = self.comparison.joined(recorded)
                kept = [run for run in read_csv(self.folder) if run.name not in names]
                ordered = sorted([*kept, *runs], key=lambda run: (run.game, run.arm, run.seed))
                write_text(file, self.comparison.to_yaml())
                write_csv(ordered, self.folder)
        except OSError as error:
            raise UserError(f"results '{self.folder}' cannot be written: {error}") from None


def _moved(comparison: Comparison, recorded: Comparison, runs: Sequence[RunData]) -> dict[Path, Path]:
    """
    Return where folders of runs trained elsewhere have gone, as on another machine: their curves tell.

    :param comparison: With the folders as they are now
    :param recorded: With the folders as they were
    :param runs: The recorded scores and curves
    """
    known = {run.name: run for run in runs}
    moved: dict[Path, Path] = {}
    for arm, games in recorded.foreign.items():
        for game, paths in games.items():
            here = [path for path in comparison.foreign.get(arm, {}).get(game, []) if path not in paths]
            for number, path in enumerate(paths, start=1):
                run = known.get(run_name(game, arm, number))
                if run is None or path.exists():
                    continue
                for new in here:
                    with contextlib.suppress(UserError):  # one that cannot be read: the report names it
                        if is_copy(read_foreign(new, "", game, arm, number), run):
                            moved[path] = new
    return moved


def _renamed(comparison: Comparison, moved: Mapping[Path, Path]) -> Comparison:
    """Return a comparison with folders where they are now."""
    foreign = {
        arm: {game: [moved.get(path, path) for path in paths] for game, paths in games.items()}
        for arm, games in comparison.foreign.items()
    }
    return dataclasses.replace(comparison, foreign=foreign)
