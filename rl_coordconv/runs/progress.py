"""Where a run stands: ``progress.json`` for other programs, and a bar or lines for the person who waits."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from stable_baselines3.common.base_class import BaseAlgorithm

from rl_coordconv.config import RunConfig
from rl_coordconv.runs.callbacks import Interrupted, RunCallback
from rl_coordconv.runs.evaluation import PeriodicEvaluation
from rl_coordconv.runs.faults import TrainingFault
from rl_coordconv.runs.folder import Cause, Progress, RunFolder, State

FILE_SECONDS = 2
LINE_SECONDS = 10


def make_bar(label: str, shown: str) -> Bar:
    """
    Return a progress bar with steps and time left, which is silent where there is no terminal.

    :param label: What is being trained
    :param shown: What else it shows, with rich's fields of a task
    """
    console = Console(stderr=True)
    return Bar(
        TextColumn(label),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
        TextColumn(shown),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def print_line(console: Console, text: str) -> None:
    """Print a line as it is, for logs and other programs."""
    console.print(text, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def games_bar(label: str, total: int) -> Iterator[Callable[[dict[str, Any], dict[str, Any]], None]]:
    """
    Show how many games are over: a bar, or where there is no terminal a line every 10 seconds.

    :param label: What plays
    :param total: Games to play
    :return: The ``callback`` of :func:`~.evaluation.play_games`
    """
    console = Console(stderr=True)
    columns = BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} games"), TimeRemainingColumn()
    with Bar(TextColumn(label), *columns, console=console, disable=not console.is_terminal) as bar:
        task, last = bar.add_task("", total=total), time.monotonic()

        def show(local_variables: dict[str, Any], _: dict[str, Any]) -> None:
            nonlocal last
            done, now = len(local_variables["episode_rewards"]), time.monotonic()
            bar.update(task, completed=done)
            if not console.is_terminal and now - last >= LINE_SECONDS:
                last = now
                print_line(console, f"{label}: {done}/{total} games")

        yield show


class ProgressReport(RunCallback):
    """
    Write ``progress.json`` every 2 seconds and at changes of state, and show the same on the screen.

    On the screen it is a bar with the time left; where there is no terminal, a line every 10 seconds.

    :param folder: The run's folder
    :param config: The run's config
    :param evaluation: Knows how long it has played, which is no training
    """

    def __init__(self, folder: RunFolder, config: RunConfig, evaluation: PeriodicEvaluation) -> None:
        super().__init__(folder, config)
        self.evaluation = evaluation
        self.total = config.total_timesteps
        self.label = f"{config.game}/{config.arm}/seed{config.seed}"
        before = folder.read_progress()
        self.speed_before = before.steps_per_second
        self.now = Progress("running", attempts=before.attempts + 1)
        self.bar = make_bar(self.label, "{task.fields[speed]:,.0f}/s  return {task.fields[recent]}")
        self.console = self.bar.console

    @contextlib.contextmanager
    def until_the_end(self, model: BaseAlgorithm) -> Iterator[None]:
        """Keep ``progress.json`` while the block trains a model, and write in the end how it ended."""
        self.init_callback(model)
        self.start = self.last_file = self.last_line = time.monotonic()
        self.first_step = self.model.num_timesteps
        try:
            yield
            self._write("finished")
        except Interrupted:
            self._write("stopped", "signal", "a signal asked to stop; the state is saved")
            raise
        except TrainingFault as fault:
            self._write("diverged" if fault.cause == "loss" else "failed", fault.cause, str(fault))
            raise
        except Exception as error:
            self._write("failed", "error", f"{type(error).__name__}: {error}")
            raise
        finally:
            self.bar.stop()

    def report(self) -> None:
        """Say that the run is under way."""
        self._write("running")

    def tell(self, text: str) -> None:
        """Say what comes now."""
        print_line(self.console, f"{self.label}: {text}")

    def _write(self, state: State, cause: Cause = "", reason: str = "") -> None:
        self._measure()
        self.now = dataclasses.replace(self.now, state=state, cause=cause, exit_reason=reason)
        try:
            self.folder.write_progress(self.now)
        except OSError:
            # On a full disk the fault that training ended with is what must be told.
            if not reason:
                raise

    def _on_training_start(self) -> None:
        self.task = self.bar.add_task("", total=self.total, completed=self.first_step, speed=0.0, recent="-")
        self.bar.start()

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self.last_file >= FILE_SECONDS:
            self.last_file = now
            self._write("running")
            if self.console.is_terminal or now - self.last_line >= LINE_SECONDS:
                self.last_line = now
                self._show()
        return True

    def _on_training_end(self) -> None:
        self._write("running")
        self._show()

    def _measure(self) -> None:
        episodes, steps = self.model.ep_info_buffer or (), self.model.num_timesteps
        self.now = dataclasses.replace(
            self.now,
            steps=steps,
            steps_per_second=self._speed(steps),
            recent_return=float(np.mean([info["r"] for info in episodes])) if episodes else None,
        )

    def _speed(self, steps: int) -> float:
        """Return the steps per second of all attempts; those before count as fast as they were recorded."""
        seconds = time.monotonic() - self.start - self.evaluation.seconds
        if not self.speed_before:  # none before, or none recorded
            return (steps - self.first_step) / max(seconds, 1e-9)
        return steps / max(self.first_step / self.speed_before + seconds, 1e-9)

    def _show(self) -> None:
        steps, speed = self.now.steps, self.now.steps_per_second
        recent = "-" if self.now.recent_return is None else f"{self.now.recent_return:.1f}"
        self.bar.update(self.task, completed=min(steps, self.total), speed=speed, recent=recent)
        if not self.console.is_terminal:
            left = max(self.total - steps, 0) / max(speed, 1e-9)
            print_line(
                self.console,
                f"{self.label}: {steps:,}/{self.total:,} steps, {speed:,.0f} steps/s, "
                f"recent return {recent}, {left:.0f} s left",
            )
