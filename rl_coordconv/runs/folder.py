"""
The folder of one training run, made to explain itself.

It lies under ``<output>/<name>/<game>/<arm>/seed<k>/``; :data:`README` in it says what each file is.
The folder is filled under another name and renamed, so it is there with its config or not at all. This module
writes and reads every text file in it but ``decisions.json`` and ``evaluation.json``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rl_coordconv import machine
from rl_coordconv.config import RunConfig, config_from_dict, upgrade
from rl_coordconv.errors import UserError
from rl_coordconv.files import atomic_folder, check_can_hold_files, read_json, write_json, write_text
from rl_coordconv.options import read_yaml

README = """# {game} / {arm} / seed {seed}

| file | what it is |
|---|---|
| `config.yaml` | every option of this run |
| `command.txt` | the command that started it |
| `versions.json` | Python, packages, machine |
| `decisions.json` | what `precision` and `compile` came to here, with probes' figures |
| `events.out.tfevents.*` | curves: `tensorboard --logdir {logdir}` |
| `monitor.csv` | one line per full game: raw return `r`, length in steps `l`, seconds `t`, `step` |
| `evaluations.jsonl` | one line per evaluation: `step`, `returns`, `lengths` |
| `coordinates.csv` | share of each CoordConv layer's weight norm on coordinates |
| `progress.json` | steps so far, steps/s, recent return, state, attempts, why it ended |
| `checkpoints/` | for `python scripts/train.py --resume {folder}` |
| `best_model.zip` | the agent with the best evaluation (Stable-Baselines3 zip) |
| `final_model.zip` | the agent at the last step (there once the run is finished) |
| `evaluation.json` | what `scripts/evaluate.py` last measured here |

Play it: `python scripts/evaluate.py {folder} --gif agent.gif`
"""

LOCK = ".lock"
MONITOR_COLUMNS = ("r", "l", "t", "step")
State = Literal["running", "finished", "stopped", "failed", "diverged", "unfinished"]
Cause = Literal["", "signal", "memory", "storage", "loss", "error"]


class FolderInUse(UserError):
    """Another process holds the folder."""


@dataclass(frozen=True)
class Progress:
    """
    Where a run stands, as its training last wrote it.

    :param state: ``running`` also where the process was killed; ``stopped`` by a signal, saved; ``diverged``
        when the loss was not finite; ``unfinished`` in a folder of version 0.1.0, which kept no progress
    :param steps: Steps done
    :param steps_per_second: Over all attempts, without evaluations
    :param recent_return: Mean raw return of the last 100 games, or None before the first
    :param attempts: How often training was started here, this time included
    :param cause: Kind of reason for which it ended early
    :param exit_reason: The same as a line to read
    """

    state: State
    steps: int = 0
    steps_per_second: float = 0.0
    recent_return: float | None = None
    attempts: int = 0
    cause: Cause = ""
    exit_reason: str = ""


class RunFolder:
    """
    The files of one run: where they are, and what is in them.

    :param path: The run's folder
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.command = self.path / "command.txt"
        self.versions = self.path / "versions.json"
        self.monitor = self.path / "monitor.csv"
        self.evaluations = self.path / "evaluations.jsonl"
        self.progress = self.path / "progress.json"
        self.coordinates = self.path / "coordinates.csv"
        self.checkpoints = self.path / "checkpoints"
        self.best_model = self.path / "best_model.zip"
        self.final_model = self.path / "final_model.zip"

    @property
    def finished(self) -> bool:
        """Whether the run reached its last step."""
        return self.final_model.is_file()

    def check_free(self) -> None:
        """
        Make sure that no other run lives here.

        :raises UserError: The folder is in use, or is not a folder
        """
        if self.config_file.exists():
            raise UserError(
                f"output folder '{self.path}' holds another run: continue it with --resume '{self.path}', "
                "or choose another --name, --arm, --seed or --output"
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"output folder '{self.path}' is not empty: choose another --name or --output")
        check_can_hold_files(self.path, "output folder")

    def create(self, config: RunConfig, command: str | None = None) -> None:
        """
        Make the folder with the files that explain it, complete or not at all.

        :param config: The run's validated config
        :param command: The command line that started it, if one did
        :raises UserError: The folder cannot be made
        """
        paths = self.path, Path(config.output) / str(config.name)
        folder, logdir = (shlex.quote(str(path)) for path in paths)
        text = README.format(game=config.game, arm=config.arm, seed=config.seed, folder=folder, logdir=logdir)
        with atomic_folder(self.path, "output folder") as draft:
            (draft / self.checkpoints.name).mkdir()
            write_text(draft / "README.md", text)
            if command is not None:
                write_text(draft / self.command.name, f"{command}\n")
            write_json(draft / self.versions.name, machine.versions(config.device))
            write_text(draft / self.config_file.name, config.to_yaml())

    def load_config(self, **overrides: Any) -> RunConfig:
        """
        Return the config of the run that lives here.

        :param overrides: Fields to change

        :raises UserError: No run lives here
        """
        if not self.config_file.is_file():
            raise UserError(f"'{self.path}' is not a run folder: it holds no config.yaml")
        return config_from_dict({**upgrade(read_yaml(self.config_file)), **overrides}, str(self.config_file))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """
        Hold the folder for this process; the lock goes with the process, however it ends.

        :raises FolderInUse: Another process is training here
        :raises UserError: The file system has no locks
        """
        try:
            file = open(self.path / LOCK, "w")  # noqa: SIM115  # closed below, after the block
        except OSError as error:
            raise UserError(f"run folder '{self.path}' cannot be written: {error.strerror}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderInUse(f"run folder '{self.path}' is in use by another process") from None
            except OSError as error:
                raise UserError(
                    f"run folder '{self.path}' cannot be locked ({error.strerror}): its file system has no "
                    "locks, choose an --output on another"
                ) from None
            yield

    def read_versions(self) -> dict[str, Any]:
        """Return the packages and the machine that the run began with, none if it does not say."""
        return read_json(self.versions)

    def read_command(self) -> str:
        """Return the command that the run was started with."""
        return (
            self.command.read_text(encoding="utf-8").strip() if self.command.is_file() else "(not recorded)"
        )

    def read_progress(self) -> Progress:
        """Return where the run stands; a finished run says so whatever its process had time to write."""
        values, known = read_json(self.progress), {entry.name for entry in dataclasses.fields(Progress)}
        found = Progress("unfinished")
        if "state" in values:
            found = Progress(**{key: value for key, value in values.items() if key in known})
        return dataclasses.replace(found, state="finished") if self.finished else found

    def write_progress(self, progress: Progress) -> None:
        """Write where the run stands; what is overtaken in two seconds need not outlast a power cut."""
        write_json(self.progress, dataclasses.asdict(progress), sync=progress.state != "running")

    def read_games(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Return the steps at which games ended and their raw returns; a line cut off by a crash is left out.

        :return: Two float64 arrays of shape ``(games,)``
        """
        lines = self._whole_games()
        games = np.loadtxt(lines, delimiter=",", ndmin=2) if lines else np.empty((0, len(MONITOR_COLUMNS)))
        return games[:, 3], games[:, 0]

    def keep_games_until(self, step: int, game: str) -> float:
        """
        Begin ``monitor.csv``, or forget the games after the checkpoint that training resumes from.

        :param step: Step of the checkpoint
        :param game: The game, for the header that SB3's ``Monitor`` files have
        :return: Seconds after the header's time at which the last game ended that is kept
        """
        header = [f"#{json.dumps({'t_start': time.time(), 'env_id': game})}", ",".join(MONITOR_COLUMNS)]
        kept = [line for line in self._whole_games() if int(line.rsplit(",", 1)[1]) <= step]
        write_text(self.monitor, _lines([*(whole_lines(self.monitor)[:2] or header), *kept]))
        return float(kept[-1].split(",")[2]) if kept else 0.0

    def append_games(self, games: Iterable[tuple[Mapping[str, float], int]]) -> None:
        """
        Add full games to ``monitor.csv``.

        :param games: SB3's ``info["episode"]`` and the step at which it came
        """
        _append(self.monitor, [f"{game['r']},{game['l']},{game['t']},{step}" for game, step in games])

    def read_coordinates(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return steps and shares of the weight norm on coordinates, by layer; a line cut off is left out."""
        if not (lines := whole_lines(self.coordinates)):
            return {}
        names, *rows = [line.split(",") for line in lines]
        table = np.array(rows, dtype=np.float64).reshape(-1, len(names))
        return {name: (table[:, 0], table[:, column]) for column, name in enumerate(names) if column and rows}

    def keep_coordinates_until(self, step: int) -> None:
        """Forget what ``coordinates.csv`` has after the checkpoint that training resumes from."""
        if lines := whole_lines(self.coordinates):
            kept = [line for line in lines[1:] if int(line.partition(",")[0]) <= step]
            write_text(self.coordinates, _lines([lines[0], *kept]))
        else:  # not there, or cut off within the header
            self.coordinates.unlink(missing_ok=True)

    def append_coordinates(self, step: int, ratios: Mapping[str, float]) -> None:
        """
        Add a line to ``coordinates.csv``, begun with the first.

        :param step: Steps done
        :param ratios: Share of the weight norm on coordinates by layer
        """
        header = [] if whole_lines(self.coordinates) else [",".join(["step", *ratios])]
        values = ",".join([str(step), *(f"{ratio:.6g}" for ratio in ratios.values())])
        _append(self.coordinates, [*header, values])

    def _whole_games(self) -> list[str]:
        """Return the lines of ``monitor.csv`` that are complete."""
        commas = len(MONITOR_COLUMNS) - 1
        return [line for line in whole_lines(self.monitor)[2:] if line.count(",") == commas]

    def read_evaluations(self) -> list[dict[str, Any]]:
        """
        Return ``step``, ``returns`` and ``lengths`` of each evaluation; a last line cut off is left out.

        :raises UserError: Another line is damaged
        """
        try:
            return [json.loads(line) for line in whole_lines(self.evaluations)]
        except ValueError as error:
            raise UserError(f"'{self.evaluations}' is damaged: {error}") from None

    def write_evaluations(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace all evaluations."""
        write_text(self.evaluations, _lines(map(json.dumps, records)))

    def append_evaluation(self, record: Mapping[str, Any]) -> None:
        """Add an evaluation: ``step``, ``returns``, ``lengths``."""
        _append(self.evaluations, [json.dumps(record)])


def run_around(model_file: Path) -> RunFolder | None:
    """Return the run folder in which a saved model or a checkpoint lies, if it is in one."""
    for parent in list(model_file.absolute().parents)[:2]:
        if (run := RunFolder(parent)).config_file.is_file():
            return run
    return None


def whole_lines(file: Path) -> list[str]:
    """Return the lines of a file but for a last one that a crash has cut off; none if there is no file."""
    return file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _append(file: Path, lines: Sequence[str]) -> None:
    if lines:
        with open(file, "a", encoding="utf-8") as opened:
            opened.write(_lines(lines))
