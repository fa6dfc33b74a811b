"""
A task trained once per arm and seed, with everything that is needed to look at it afterwards.

On disk, in the experiment's folder::

    options.json                        the options, and the command that was typed
    <arm>/seed<k>/events.out.tfevents.* TensorBoard: losses, measurements, sample images
    <arm>/seed<k>/samples.npz           what the figure is drawn from
    <arm>/seed<k>/versions.json         what it was trained with
    <arm>/seed<k>/result.json           the run's measurements; its presence says that the run is finished
    results.json                        all runs, means with intervals per arm; all that redraw needs
    figure.png                          the figure

Started again with the same options, an experiment goes on with the runs that are not finished. Seeds and arms
may be added, and the device may be another.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import time
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from rl_coordconv.errors import UserError
from rl_coordconv.files import atomic_path, read_json, write_json
from rl_coordconv.machine import check_device, enough_memory, versions
from rl_coordconv.options import check_folder_name, check_output
from rl_coordconv.runs.folder import LOCK, RunFolder
from rl_coordconv.tasks.progress import StepBar
from rl_coordconv.tasks.seed_statistics import Numbers, print_table, summarise_seeds

MOST_SEEDS = 2**31
VERSIONS = "versions.json"
SIZES = ("batch_size", "width", "canvas", "canvas_size", "image_size", "train_canvases")
"""Options of tasks that say how much memory they need."""


@dataclass(kw_only=True)
class Experiment(ABC):
    """
    A task's options, which are its fields, and what a task must say of itself.

    :param name: Folder of the experiment, inside of output
    :param output: Folder of all experiments
    :param seeds: Of initial weights, data and sampling; a run each
    :param device: auto, cpu, cuda or cuda:N
    """

    measurements: ClassVar[tuple[str, ...]]  # rows of the table
    ratios: ClassVar[tuple[str, ...]] = ()  # of these the table says how many times the baseline's they are
    free: ClassVar[tuple[str, ...]] = ("seeds", "device", "output")  # options that may change when it goes on

    name: str
    output: str = "runs"
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    device: str = "auto"

    @property
    @abstractmethod
    def arms(self) -> tuple[str, ...]:
        """The arms to train, the baseline first."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What the table is headed with."""

    @abstractmethod
    def train(self, run: Run) -> Outcome:
        """Train one run; its weights, data and sampling come from the run's seed."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what else belongs into ``results.json``, e.g. numbers of parameters."""

    @abstractmethod
    def draw(self, results: dict[str, Any]) -> None:
        """Write ``figure.png`` from ``results.json`` and the runs' samples."""

    def notes(self, results: dict[str, Any]) -> list[str]:
        """Return what is to be known of the numbers in ``results.json``, a line each."""
        return [
            f"trained with different {name}: {', '.join(map(str, values))}"
            for name, values in results["versions"].items()
            if isinstance(values, list)
        ]

    @property
    def folder(self) -> Path:
        """Where the experiment lives: ``<output>/<name>``."""
        return Path(self.output) / self.name

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON has them."""
        values = {option.name: getattr(self, option.name) for option in dataclasses.fields(self)}
        return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}

    def check(self) -> None:
        """
        Refuse options that no task can run with.

        :raises UserError: A number is out of range, the device or the folder is not there to use
        """
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.name.startswith("lr") and value is not None and value >= 1:
                raise UserError(f"{option.name} is {value}: it must be below 1")
        check_output(self.output)
        if not self.seeds:
            raise UserError("seeds is empty: give one or more, as in --seeds 1 2 3")
        if min(self.seeds) < 0 or max(self.seeds) >= MOST_SEEDS or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds are {self.seeds}: they must be different, from 0 to {MOST_SEEDS - 1}")
        check_device(self.device)
        check_folder_name("name", self.name)
        self._check_folder()

    def _check_folder(self) -> None:
        file = self.folder / "options.json"
        if file.is_file():
            try:
                kept = json.loads(file.read_text(encoding="utf-8"))["options"]
                now = self.to_dict()
                changed = [key for key in {**kept, **now} if kept.get(key) != now.get(key)]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"'{file}' is damaged: remove the folder or choose another --name") from None
            if other := [key for key in changed if key not in self.free]:
                raise UserError(
                    f"'{self.folder}' holds an experiment with {other[0]} {kept.get(other[0])}, not "
                    f"{now.get(other[0])}: choose another --name or --output"
                )
        elif self.folder.exists() and (not self.folder.is_dir() or {*os.listdir(self.folder)} - {LOCK}):
            raise UserError(f"'{self.folder}' is not empty: choose another --name or --output")

    def run(self) -> list[Path]:
        """
        Train all arms with all seeds, write ``results.json``, print the table and draw the figure.

        :return: The experiment's folder
        :raises UserError: The options cannot be run, and nothing has been written; or memory is used up
        """
        sizes = [name for name in SIZES if hasattr(self, name)]
        with enough_memory(" or ".join(sizes), when=""):
            return self._run_all()

    def _run_all(self) -> list[Path]:
        self.check()
        facts = self.facts()
        options = {"options": self.to_dict(), "command": shlex.join(["python", *sys.argv])}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LOCK).touch()
        except OSError as error:
            raise UserError(f"folder '{self.folder}' cannot be made: {error}") from None
        with RunFolder(self.folder).lock():
            write_json(self.folder / "options.json", options)
            runs = {arm: {seed: self._run(arm, seed) for seed in self.seeds} for arm in self.arms}
        results = {
            **options,
            **facts,
            "versions": self._versions(),
            "measurements": list(self.measurements),
            "runs": runs,
            "summary": summarise_seeds(runs),
        }
        kept = {arm: {seed: self._kept(arm, seed) for seed in self.seeds} for arm in self.arms}
        if any(arrays for by_seed in kept.values() for arrays in by_seed.values()):
            results["samples"] = kept
        write_json(self.folder / "results.json", results)
        results = read_json(self.folder / "results.json")  # the figure is drawn from what the file says
        print_table(results, self.title, self.ratios)
        for note in self.notes(results):
            print(f"note: {note}")
        self.draw(results)
        return [self.folder]

    def _run(self, arm: str, seed: int) -> Numbers:
        folder = self.folder / arm / f"seed{seed}"
        result = folder / "result.json"
        if numbers := read_json(result):
            if missing := {*self.measurements} - {*numbers}:
                raise UserError(
                    f"'{result}' is of another version, without {', '.join(sorted(missing))}: "
                    f"remove '{self.folder}' or choose another --name"
                )
            return numbers
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("events.out.tfevents.*"):
            stale.unlink()
        torch.manual_seed(seed)
        start = time.monotonic()
        with SummaryWriter(str(folder)) as writer, StepBar(f"{arm}/seed{seed}") as bar:
            outcome = self.train(Run(arm, seed, get_device(self.device), writer, bar))
            numbers = {**outcome.numbers, "seconds": round(time.monotonic() - start, 3)}
            bar.finish({key: numbers[key] for key in self.measurements})
        with atomic_path(folder / "samples.npz") as temporary:
            np.savez_compressed(temporary, **outcome.samples)  # type: ignore[arg-type]
        write_json(folder / VERSIONS, {**versions(self.device), "threads": torch.get_num_threads()})
        write_json(result, numbers)
        return numbers

    def _versions(self) -> dict[str, Any]:
        """Return what the runs were trained with; a list where they differ, as after an update or a move."""
        folders = [self.folder / arm / f"seed{seed}" for arm in self.arms for seed in self.seeds]
        of_runs = [read_json(folder / VERSIONS) or {"rl-coordconv": "not known"} for folder in folders]
        names = dict.fromkeys(name for found in of_runs for name in found)
        values = {name: [*dict.fromkeys(found.get(name, "not known") for found in of_runs)] for name in names}
        return {name: found[0] if len(found) == 1 else found for name, found in values.items()}

    def kept(self, seed: int) -> tuple[str, ...]:
        """Return which arrays of a run's samples ``results.json`` keeps: what its figure shows."""
        return ()

    def _kept(self, arm: str, seed: int) -> dict[str, dict[str, Any]]:
        keys = self.kept(seed)
        samples = self.samples(arm, seed) if keys else {}
        return {key: array_to_json(samples[key]) for key in keys}

    def samples(self, arm: str, seed: int) -> dict[str, np.ndarray]:
        """Return the arrays that a finished run kept for the figure."""
        path = self.folder / arm / f"seed{seed}" / "samples.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"'{path}' cannot be read: {error}; without its folder it is made anew") from None


def array_to_json(array: np.ndarray) -> dict[str, Any]:
    """Return an array as its shape and one line of numbers with three decimals, which a figure needs."""
    return {"shape": list(array.shape), "values": " ".join(f"{round(value, 3):g}" for value in array.flat)}


def array_from_json(entry: dict[str, Any]) -> np.ndarray:
    """
    Return the array that :func:`array_to_json` wrote, ``float64``.

    :raises ValueError: The numbers do not fill the shape, or are none
    """
    return np.array([float(value) for value in entry["values"].split()]).reshape(entry["shape"])


@dataclass(frozen=True)
class Run:
    """
    What a training is handed.

    :param arm: Which networks
    :param seed: Of initial weights, data and sampling
    :param device: Where to train
    :param writer: TensorBoard
    :param bar: Progress bar
    """

    arm: str
    seed: int
    device: torch.device
    writer: SummaryWriter
    bar: StepBar

    def show_progress(self, done: int, total: int, text: str, *losses: Tensor) -> None:
        """
        Now and then show where training is.

        :param done: Steps done
        :param total: Steps of the whole run
        :param text: Names of the losses, with a ``{:.3f}`` for each
        :param losses: Read only when shown, which makes a GPU wait
        :raises UserError: A loss is infinite or no number
        """
        if not self.bar.due(done, total):
            return
        values = [loss.item() for loss in losses]
        self.bar.show(text.format(*values))
        if not np.isfinite(values).all():
            raise UserError(
                f"{self.arm}/seed{self.seed} diverged: loss {values} at step {done}; lower the learning rate"
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
