"""
The folder of one training run, made to explain itself.

On disk, under ``<output>/<name>/<game>/<arm>/seed<k>/``::

    README.md               what each file is, and the commands to look at it
    config.yaml             every option of the run, as resolved
    command.txt             the command line, ready to paste
    versions.json           Python, packages, machine
    events.out.tfevents.*   TensorBoard curves
    monitor.csv             one line per full game: return, length, seconds, step
    evaluations.jsonl       one line per evaluation: step, returns, lengths
    checkpoints/            the newest few, for --resume
    best_model.zip          SB3 zip with the best evaluation
    final_model.zip         SB3 zip at the last step; its presence says that the run is finished
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from rl_coordconv import machine
from rl_coordconv.cli import read_yaml
from rl_coordconv.config import RunConfig, config_from_dict, upgrade
from rl_coordconv.errors import UserError

README = """# {game} / {arm} / seed {seed}

| file | what it is |
|---|---|
| `config.yaml` | every option of this run |
| `command.txt` | the command that started it |
| `versions.json` | Python, packages, machine |
| `events.out.tfevents.*` | curves: `tensorboard --logdir {logdir}` |
| `monitor.csv` | one line per full game: raw return `r`, length in steps `l`, seconds `t`, `step` |
| `evaluations.jsonl` | one line per evaluation: `step`, `returns`, `lengths` |
| `checkpoints/` | for `python scripts/train.py --resume {folder}` |
| `best_model.zip` | the agent with the best evaluation (Stable-Baselines3 zip) |
| `final_model.zip` | the agent at the last step (there once the run is finished) |

Play it: `python scripts/evaluate.py {folder} --gif agent.gif`
"""

PACKAGES = ("rl-coordconv", "torch", "stable-baselines3", "gymnasium", "ale-py", "numpy", "tensorboard")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """
    Give a temporary path beside ``path`` that takes its place, synced, when the block succeeds.

    :param path: The file to write; on an error it stays as it was
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that the file is there complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class RunFolder:
    """
    The paths of one run.

    :param path: The run's folder
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.monitor = self.path / "monitor.csv"
        self.evaluations = self.path / "evaluations.jsonl"
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
        above = next(parent for parent in self.path.absolute().parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise UserError(f"output folder '{self.path}' cannot be made: '{above}' is not a writable folder")

    def create(self, config: RunConfig) -> None:
        """
        Make the folder with the files that explain it.

        :param config: The run's validated config
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        logdir = Path(config.output) / str(config.name)
        text = README.format(
            game=config.game, arm=config.arm, seed=config.seed, folder=self.path, logdir=logdir
        )
        write_text(self.path / "README.md", text)
        write_text(self.path / "command.txt", f"python {' '.join(sys.argv)}\n")
        write_text(self.path / "versions.json", json.dumps(versions(), indent=2) + "\n")
        write_text(self.config_file, config.to_yaml())

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

        :raises UserError: Another process is training here
        """
        with open(self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"run folder '{self.path}' is in use by another process") from None
            yield


def versions() -> dict[str, str]:
    """Return the versions of what computes the results."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found | machine.describe()
