"""One live table for the whole matrix: state, steps, steps/s, return, time left."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rl_coordconv.compare.jobs import Job, JobResult
from rl_coordconv.runs.folder import Progress

# Drawing takes 20 ms of a core: every second, it would take 2 % of it.
DRAW_SECONDS = 5.0
LINE_SECONDS = 30.0
# Of a large matrix, those that somebody looks for.
ORDER = ("running", "failed", "stopped", "finished", "waiting")
MOST_ROWS = 40
COLOURS = {"finished": "green", "running": "cyan", "failed": "red", "stopped": "yellow", "waiting": "dim"}


class MatrixTable:
    """
    Shows where all runs stand, at every change and now and then: a table, or lines without a terminal.

    :param jobs: All runs of the matrix
    """

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs
        self.started = time.time()
        self.finished_before = {job.name for job in jobs if job.run.finished}
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.last_shown = 0.0
        self.progress: dict[str, Progress] = {}
        self.seen: dict[str, str] = {}

    def __enter__(self) -> MatrixTable:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def show(self, results: dict[str, JobResult]) -> None:
        """
        Draw the table anew.

        :param results: Results so far, by job name
        """
        states = {job.name: self._state(job, results) for job in self.jobs}
        for job in self.jobs:
            known = job.name in self.progress
            if not known or states[job.name] == "running" or states[job.name] != self.seen.get(job.name):
                self.progress[job.name] = job.run.read_progress()
        now, pause = time.monotonic(), DRAW_SECONDS if self.console.is_terminal else LINE_SECONDS
        if states == self.seen and now - self.last_shown < pause:
            return
        if self.console.is_terminal:
            self.live.update(self.table(states), refresh=True)
        else:
            self._print_changes(states)
        self.seen, self.last_shown = states, now

    def _state(self, job: Job, results: dict[str, JobResult]) -> str:
        if job.name in results:
            return results[job.name].state
        if job.name in self.finished_before:
            return "finished"
        started = job.log.is_file() and job.log.stat().st_mtime >= self.started
        return "running" if started else "waiting"

    def table(self, states: dict[str, str]) -> Table:
        """
        Return the table, running runs first, and of many runs the first rows.

        :param states: State by job name
        """
        title = f"{self._counts(states)}; about {clock(self._time_left(states))} left"
        table = Table("run", "state", "steps", "steps/s", "return", "left", title=title, title_justify="left")
        for column in table.columns[2:]:
            column.justify = "right"
        for job in sorted(self.jobs, key=lambda job: ORDER.index(states[job.name]))[:MOST_ROWS]:
            now, total = self.progress[job.name], job.config.total_timesteps
            speed, running = now.steps_per_second, states[job.name] == "running"
            left = (total - now.steps) / speed if speed else None
            steps = total if states[job.name] == "finished" else min(now.steps, total)
            colour = COLOURS[states[job.name]]
            table.add_row(
                job.name,
                f"[{colour}]{states[job.name]}[/]",
                f"{steps:,}/{total:,}",
                f"{speed:,.0f}" if speed else "-",
                "-" if now.recent_return is None else f"{now.recent_return:.1f}",
                clock(left) if running else "",
            )
        return table

    def _counts(self, states: dict[str, str]) -> str:
        values = list(states.values())
        return ", ".join(f"{values.count(state)} {state}" for state in COLOURS if state in values)

    def _time_left(self, states: dict[str, str]) -> float | None:
        """Return seconds until the last run is done, if the running ones go on as fast."""
        speed = sum(
            self.progress[name].steps_per_second for name, state in states.items() if state == "running"
        )
        open_states = ("running", "waiting")
        steps = sum(
            max(job.config.total_timesteps - self.progress[job.name].steps, 0)
            for job in self.jobs
            if states[job.name] in open_states
        )
        return steps / speed if speed else (None if steps else 0.0)

    def _print_changes(self, states: dict[str, str]) -> None:
        for name, state in states.items():
            if state != self.seen.get(name, "waiting"):
                self.console.print(f"{name}: {state}", highlight=False, soft_wrap=True)
        left = clock(self._time_left(states))
        self.console.print(f"{self._counts(states)}; about {left} left", highlight=False, soft_wrap=True)


def clock(seconds: float | None) -> str:
    """Return a duration as people say it: ``2h05m``, ``3m20s``, or ``?``."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{rest:02d}s"
