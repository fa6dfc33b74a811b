"""Progress of a task's training: a bar, or a line every 10 seconds where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class StepBar:
    """
    Show steps, speed, recent losses and time left; use it as a context manager.

    :param total: Training steps
    :param label: What is being trained
    """

    def __init__(self, total: int, label: str) -> None:
        self.total = total
        self.label = label
        self.done = 0
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn(label),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps  {task.fields[text]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> StepBar:
        self.start = self.last = time.monotonic()
        self.task = self.bar.add_task("", total=self.total, text="")
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def due(self) -> bool:
        """Count a step; return whether it is time to show something, so that losses are read only then."""
        self.done += 1
        now = time.monotonic()
        if now - self.last < (1 if self.console.is_terminal else 10) and self.done < self.total:
            return False
        self.last = now
        return True

    def show(self, text: str) -> None:
        """Show where training is, with ``text`` behind it."""
        self.bar.update(self.task, completed=self.done, text=text)
        if not self.console.is_terminal:
            speed = self.done / max(time.monotonic() - self.start, 1e-9)
            left = (self.total - self.done) / max(speed, 1e-9)
            self.console.print(
                f"{self.label}  {self.done:,}/{self.total:,} steps  {speed:.1f}/s  {text}  {left:.0f} s left"
            )
