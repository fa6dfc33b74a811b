"""
A task trained once per arm and seed, with everything that is needed to look at it afterwards.

On disk, under ``<output>/<name>/``::

    options.json                        the options, and the command that was typed
    <arm>/seed<k>/events.out.tfevents.* TensorBoard: losses, measurements, sample images
    <arm>/seed<k>/samples.npz           what the figure is drawn from
    <arm>/seed<k>/result.json           the run's measurements; its presence says that the run is finished
    results.json                        all runs, and means with intervals per arm
    <name>.png                          the figure

Started again with the same options, an experiment goes on with the runs that are not finished. Seeds may be
added, and the device may be another.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from rl_coordconv.config import check_device
from rl_coordconv.errors import UserError
from rl_coordconv.runs.folder import RunFolder, atomic_path, versions, write_text
from rl_coordconv.tasks.progress import StepBar
from rl_coordconv.tasks.seed_statistics import Numbers, summarise


@dataclass
class TaskConfig:
    """What every task's options include; see a task's own class for what they mean."""

    name: str
    output: str = "runs"
    seeds: int = 3
    device: str = "auto"

    @property
    def folder(self) -> Path:
        """Where the experiment lives: ``<output>/<name>``."""
        return Path(self.output) / self.name

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON has them."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in vars(self).items()}

    def check(self) -> None:
        """
        Refuse options that no task can run with.

        :raises UserError: A number is out of range, the device or the folder is not there to use
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise UserError(f"{field.name} is {value}: it must be 1 or more")
            # The only fractions among the options are learning rates.
            if isinstance(value, float) and not 0 < value < 1:
                raise UserError(f"{field.name} is {value}: it must be above 0 and below 1")
        check_device(self.device)
        if not re.fullmatch(r"[\w.+-]+", self.name) or set(self.name) <= {"."}:
            raise UserError(f"name '{self.name}' must be a folder name: letters, digits and . _ + -")
        self._check_folder()

    def _check_folder(self) -> None:
        file = self.folder / "options.json"
        if file.is_file():
            try:
                kept = json.loads(file.read_text(encoding="utf-8"))["options"]
                same = {**kept, "seeds": self.seeds, "device": self.device} == self.to_dict()
            except (ValueError, KeyError, TypeError):
                raise UserError(f"'{file}' is damaged: remove the folder or choose another --name") from None
            if not same:
                raise UserError(
                    f"'{self.folder}' holds an experiment with other options (see its options.json): "
                    "choose another --name or --output"
                )
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise UserError(f"'{self.folder}' is not empty: choose another --name or --output")


@dataclass(frozen=True)
class Run:
    """
    What a training is handed.

    :param arm: Which networks
    :param seed: Of initial weights, data and sampling
    :param device: Where to train
    :param writer: TensorBoard
    :param bar: Progress bar, to be advanced once per training step
    """

    arm: str
    seed: int
    device: torch.device
    writer: SummaryWriter
    bar: StepBar

    def show_progress(self, step: int, text: str, *losses: Tensor) -> None:
        """
        Count a training step and, now and then, show it.

        :param step: Step just done
        :param text: Names of the losses, with a ``{:.3f}`` for each
        :param losses: Read only when shown, which makes a GPU wait
        :raises UserError: A loss is infinite or no number
        """
        if not self.bar.due():
            return
        values = [loss.item() for loss in losses]
        self.bar.show(text.format(*values))
        if not np.isfinite(values).all():
            raise UserError(
                f"{self.arm}/seed{self.seed} diverged: loss {values} at step {step}; lower the learning rate"
            )


@dataclass(frozen=True)
class Outcome:
    """
    What a training gives back.

    :param numbers: Measurements; None where there was nothing to measure
    :param samples: Arrays for the figure, stored without pickle
    """

    numbers: Numbers
    samples: dict[str, np.ndarray]


Train = Callable[[Run], Outcome]


def run_experiment(
    config: TaskConfig, arms: Sequence[str], steps: int, train: Train, facts: dict[str, Any]
) -> dict[str, Any]:
    """
    Train all arms with all seeds, and write ``results.json``.

    :param config: Checked options
    :param arms: Arms, the baseline first
    :param steps: Training steps of one run, for the progress bar
    :param train: Trains one run
    :param facts: What else belongs into ``results.json``, e.g. numbers of parameters
    :return: What ``results.json`` holds
    """
    options = {"options": config.to_dict(), "command": f"python {' '.join(sys.argv)}"}
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
        write_text(config.folder / "options.json", json.dumps(options, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"folder '{config.folder}' cannot be made: {error}") from None
    with RunFolder(config.folder).lock():
        runs = {
            arm: {seed: _run(config, arm, seed, steps, train) for seed in range(1, config.seeds + 1)}
            for arm in arms
        }
    results = {**options, **facts, "versions": versions(), "runs": runs, "summary": summarise(runs)}
    write_text(config.folder / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def _run(config: TaskConfig, arm: str, seed: int, steps: int, train: Train) -> Numbers:
    folder = config.folder / arm / f"seed{seed}"
    result = folder / "result.json"
    if result.is_file():
        numbers: Numbers = json.loads(result.read_text(encoding="utf-8"))
        return numbers
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("events.out.tfevents.*"):
        stale.unlink()
    torch.manual_seed(seed)
    start = time.monotonic()
    with SummaryWriter(str(folder)) as writer, StepBar(steps, f"{arm}/seed{seed}") as bar:
        outcome = train(Run(arm, seed, get_device(config.device), writer, bar))
    with atomic_path(folder / "samples.npz") as temporary:
        np.savez_compressed(temporary, **outcome.samples)  # type: ignore[arg-type]
    numbers = {**outcome.numbers, "seconds": round(time.monotonic() - start, 1)}
    write_text(result, json.dumps(numbers, indent=2) + "\n")
    return numbers


def load_samples(folder: Path, arm: str, seed: int = 1) -> dict[str, np.ndarray]:
    """Return the arrays that a finished run kept for the figure."""
    with np.load(folder / arm / f"seed{seed}" / "samples.npz", allow_pickle=False) as arrays:
        return dict(arrays)
