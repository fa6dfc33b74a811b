"""Progress of a task's training: a bar, or a line every 10 seconds where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rl_coordconv.runs.progress import make_bar, print_line


class StepBar:
    """
    Show steps, speed, recent losses and time left; use it as a context manager.

    :param label: What is being trained
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.done = self.total = 0
        self.bar = make_bar(label, "{task.fields[text]}")
        self.console = self.bar.console

    def __enter__(self) -> StepBar:
        self.start = self.last = time.monotonic()
        self.task = self.bar.add_task("", total=1, text="")
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def due(self, done: int, total: int) -> bool:
        """Note the steps done; return whether it is time to show them, so that losses are read only then."""
        self.done, self.total = done, total
        now = time.monotonic()
        if now - self.last < (1 if self.console.is_terminal else 10) and done < total:
            return False
        self.last = now
        return True

    def show(self, text: str) -> None:
        """Show where training is, with ``text`` behind it."""
        self.bar.update(self.task, completed=self.done, total=self.total, text=text)
        if not self.console.is_terminal:
            speed = self.done / max(time.monotonic() - self.start, 1e-9)
            left = (self.total - self.done) / max(speed, 1e-9)
            print_line(
                self.console,
                f"{self.label}  {self.done:,}/{self.total:,} steps  {speed:.1f}/s  {text}  {left:.0f} s left",
            )

    def finish(self, numbers: Mapping[str, float | None]) -> None:
        """Say what was measured at the end."""
        known = [f"{key} {value:.4g}" for key, value in numbers.items() if value is not None]
        print_line(self.console, f"{self.label}  {', '.join(known)}")
