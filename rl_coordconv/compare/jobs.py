"""
One run of a comparison as a job that any executor can carry out: start or resume, retry, report.

On disk, under ``<output>/<name>/jobs/``::

    Breakout_cnn_seed1.yaml    the run's options, given to the training command
    Breakout_cnn_seed1.log     what the training command printed, attempt after attempt
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.matrix import label
from rl_coordconv.config import RunConfig
from rl_coordconv.files import write_text
from rl_coordconv.runs.folder import Cause, FolderInUse, RunFolder

POLL_SECONDS = 0.2
# Before the first retry; twice as long before each further one.
RETRY_SECONDS = 5.0
MOST_RETRY_SECONDS = 300.0
# The same training diverges again, or by luck does not; the same disk is as full for every run.
NOT_RETRIED = ("loss", "storage")
# Linux tells a process when its parent has died, so that nothing trains on behind a killed comparison:
# the trainer gets SIGTERM, saves and ends. (A hook between fork and exec would not be safe with threads.)
# And it shares processors between sessions first: a session of its own would undo the comparison's nice.
TIED_TO_PARENT = """
import contextlib, ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
with contextlib.suppress(OSError), open("/proc/self/autogroup", "r+") as file:
    file.write(str(os.nice(0)))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the comparison has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Job:
    """
    A run to train.

    :param config: Its config
    :param command: What trains it: ``command --config FILE`` starts, ``command --resume FOLDER`` goes on
    :param directory: Where the command runs; on a cluster, every node must see it under the same path
    :param file: The run's options as YAML
    :param retries: How often a failed run is tried again
    """

    config: RunConfig
    command: tuple[str, ...]
    directory: Path
    file: Path
    retries: int

    @cached_property
    def name(self) -> str:
        """E.g. ``Breakout/coordconv/seed1``."""
        return label(self.config)

    @cached_property
    def run(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.directory / self.config.folder)

    @cached_property
    def log(self) -> Path:
        """What the command prints."""
        return self.directory / self.file.with_suffix(".log")


@dataclass(frozen=True)
class JobResult:
    """
    How a job ended.

    :param state: ``finished``, ``failed`` or ``stopped``
    :param message: Why it failed
    :param cause: What kind of reason that was, empty if the run does not say
    """

    state: str
    message: str = ""
    cause: Cause = ""

    @property
    def stops_all(self) -> bool:
        """Whether no other run can go on either."""
        return self.cause == "storage"


def make_jobs(comparison: Comparison, command: Sequence[str], retries: int) -> list[Job]:
    """
    Write the options of every run, and return the jobs.

    :param comparison: What to run; its folder exists
    :param command: E.g. ``[sys.executable, "/path/scripts/train.py"]``
    :param retries: How often a failed run is tried again
    """
    folder = comparison.folder / "jobs"
    folder.mkdir(exist_ok=True)
    jobs = []
    for config in comparison.runs:
        file = folder / f"{label(config).replace('/', '_')}.yaml"
        write_text(file, config.to_yaml())
        jobs.append(Job(config, tuple(command), Path.cwd(), file, retries))
    return jobs


def run_job(job: Job, environment: dict[str, str], stop: threading.Event) -> JobResult:
    """
    Train a run to its end, from its checkpoint if it has one; try again if the command fails.

    Options that are refused, a loss that is not finite and a full disk are not tried again.

    :param job: The run
    :param environment: Variables to set for the command, e.g. ``OMP_NUM_THREADS``
    :param stop: When set, the command is asked to save and end
    """
    for attempt in range(1, job.retries + 2):
        if not _wait_until_free(job.run, stop):
            return JobResult("stopped")
        if job.run.finished:
            return JobResult("finished")
        before = job.run.read_progress()
        if before.state == "diverged":
            return JobResult("failed", f"diverged: {before.exit_reason}", before.cause)
        code = _train(job, environment, stop, attempt)
        if job.run.finished:
            return JobResult("finished")
        if stop.is_set():
            return JobResult("stopped")
        now = job.run.read_progress()
        began = now.attempts > before.attempts
        cause = now.cause if began else ""
        # Memory that others hold before the first step may be free again.
        refused = code == 2 and not began and "out of memory" not in _last_words(job.log)
        if refused or cause in NOT_RETRIED or attempt > job.retries:
            break
        if stop.wait(min(RETRY_SECONDS * 2 ** (attempt - 1), MOST_RETRY_SECONDS)):
            return JobResult("stopped")
    return JobResult("failed", f"exit code {code}: {_last_words(job.log)} (see {job.log})", cause)


def _wait_until_free(run: RunFolder, stop: threading.Event) -> bool:
    """Wait while a process of an earlier, killed comparison saves its run."""
    while run.config_file.is_file() and not run.finished:
        try:
            with run.lock():
                break
        except FolderInUse:
            if stop.wait(POLL_SECONDS):
                return False
    return True


def _train(job: Job, environment: dict[str, str], stop: threading.Event, attempt: int) -> int:
    """Run the command once and return its exit code."""
    if job.run.config_file.is_file():
        arguments = ["--resume", str(job.config.folder)]
    else:
        arguments = ["--config", str(job.file)]
    words = [*job.command, *arguments]
    with open(job.log, "ab") as log:
        log.write(f"--- attempt {attempt}, {time.ctime()}: {' '.join(words)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            tied_to_parent(words),
            cwd=job.directory,
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the comparison, which asks once and waits
        )
        try:
            while process.poll() is None:
                if stop.wait(POLL_SECONDS):
                    process.send_signal(signal.SIGTERM)
                    break
            return process.wait()
        except BaseException:
            # E.g. Ray cancels a task by an exception: save, then go.
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise


def tied_to_parent(words: Sequence[str]) -> list[str]:
    """Return a command that gets SIGTERM when the process that started it dies (on Linux)."""
    if sys.platform != "linux":
        return list(words)
    program = shutil.which(words[0]) or words[0]
    return [sys.executable, "-S", "-c", TIED_TO_PARENT, str(os.getpid()), program, *words[1:]]


def _last_words(log: Path, size: int = 4096) -> str:
    """Return the last line that a job's command printed."""
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - size))
        lines = file.read().decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip()
