"""
What a report read of each run, kept so that the next one reads only what has changed.

On disk, under ``runs/<name>/``: ``.read.json`` with the sizes and times of every run's files, and hashes of
``scores.csv`` and ``curves.csv`` beside it, which hold what was read of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from rl_coordconv.compare.comparison import CURVES_CSV, SCORES_CSV
from rl_coordconv.compare.rundata import RunData
from rl_coordconv.compare.tidy import read_csv
from rl_coordconv.errors import UserError
from rl_coordconv.files import write_text
from rl_coordconv.runs.folder import RunFolder

FILE = ".read.json"
# Changes when what is read of a run changes.
FORMAT = 1
Key = list[int]


def key_of(run: RunFolder) -> Key:
    """Return sizes and times of the files that a report reads of a run."""
    return _key(
        (run.config_file, run.progress, run.monitor, run.evaluations, run.coordinates, run.final_model)
    )


def key_of_foreign(folder: Path) -> Key:
    """Return sizes and times of all files of a run that was trained elsewhere."""
    return _key(sorted(folder.rglob("*")))


def key_of_recorded(folder: Path) -> Key:
    """Return sizes and times of recorded scores and curves."""
    return _key((folder / SCORES_CSV, folder / CURVES_CSV))


def _key(files: Sequence[Path]) -> Key:
    key = [FORMAT]
    for file in files:
        with contextlib.suppress(OSError):
            found = file.stat()
            key += [found.st_size, found.st_mtime_ns]
        key.append(0)
    return key


class Cache:
    """
    The runs that an earlier report read.

    :param folder: Of the comparison
    """

    def __init__(self, folder: Path) -> None:
        self.keys: dict[str, Key] = {}
        self.report = ""
        self.runs: dict[str, RunData] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, UserError):
            saved = json.loads((folder / FILE).read_text(encoding="utf-8"))
            keys, report = dict(saved["keys"]), str(saved["report"])
            if saved["tables"] != _tables(folder):  # another report has written them since
                return
            self.runs = {run.name: run for run in read_csv(folder)}
            self.keys, self.report = keys, report

    def get(self, name: str, key: Key) -> RunData | None:
        """Return a run whose files have not changed since it was read, else None."""
        return self.runs.get(name) if self.keys.get(name) == key else None


def fingerprint(keys: dict[str, Key], parts: Sequence[object]) -> str:
    """Return what identifies a report: what it read, and all else that it depends on."""
    return hashlib.sha256(json.dumps([keys, [str(part) for part in parts]]).encode()).hexdigest()


def save(folder: Path, keys: dict[str, Key], report: str) -> None:
    """
    Keep what a report read, after its tables are written.

    :param folder: Of the comparison
    :param keys: By run
    :param report: From :func:`fingerprint`
    """
    kept = {"keys": keys, "report": report, "tables": _tables(folder)}
    write_text(folder / FILE, json.dumps(kept), sync=False)


def _tables(folder: Path) -> list[str]:
    """Return hashes of the tables that hold what was read."""
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (SCORES_CSV, CURVES_CSV)]
