"""What is tried again and what is not, and who may write where."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from trainers import BEGIN

from rl_coordconv.compare import jobs as jobs_module
from rl_coordconv.compare.analysis import analyse
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.jobs import JobResult, make_jobs, run_job
from rl_coordconv.compare.local import run_local
from rl_coordconv.compare.matrix import load_comparison
from rl_coordconv.compare.report import write_report
from rl_coordconv.compare.table import MatrixTable
from rl_coordconv.errors import UserError
from rl_coordconv.runs.folder import RunFolder

# A trainer that makes its run folder and ends as it is told: cause, exit code.
TRAINER = f"""{BEGIN}
cause, code = told
if cause not in ("refused", "no memory"):
    attempts = 0
    if option == "--config":
        begin()
    else:
        attempts = json.loads((run / "progress.json").read_text())["attempts"]
    state = "diverged" if cause == "loss" else "failed"
    write(state, steps=10, attempts=attempts + 1, cause=cause, exit_reason="as told")
print("error: out of memory before the first step" if cause == "no memory" else "as told")
sys.exit(int(code))
"""


@pytest.fixture
def trained(matrix_file, monkeypatch):
    """Return the jobs of a matrix of two runs whose trainer ends for a cause."""
    monkeypatch.setattr(jobs_module, "RETRY_SECONDS", 0.01)

    def jobs(cause: str, code: int):
        comparison = load_comparison(matrix_file(games="[Pong]", seeds="[1]"))
        comparison.save()
        return make_jobs(comparison, [sys.executable, "-c", TRAINER, cause, str(code)], retries=2)

    return jobs


@pytest.mark.parametrize(
    ("cause", "code", "attempts"),
    [("refused", 2, 1), ("no memory", 2, 3), ("loss", 2, 1), ("storage", 2, 1), ("error", 1, 3)],
)
def test_only_what_may_go_better_is_tried_again(trained, cause, code, attempts):
    job = trained(cause, code)[0]
    result = run_job(job, {}, threading.Event())
    assert result.state == "failed"
    assert job.log.read_text().count("--- attempt") == attempts
    assert result.stops_all == (cause == "storage")
    if cause == "loss":
        assert "diverged" in run_job(job, {}, threading.Event()).message
        assert job.log.read_text().count("--- attempt") == 1


class Waits(threading.Event):
    """Notes how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout=None):
        self.seconds.append(timeout)
        return super().wait(timeout)


def test_each_retry_waits_twice_as_long(trained):
    stop = Waits()
    run_job(trained("error", 1)[0], {}, stop)
    assert [seconds for seconds in stop.seconds if seconds != jobs_module.POLL_SECONDS] == [0.01, 0.02]


def test_a_full_disk_stops_the_matrix(trained):
    jobs = trained("storage", 2)
    results = run_local(jobs, 1, lambda results: None, threading.Event())
    assert [results[job.name].state for job in jobs] == ["failed", "stopped"]


def test_a_file_system_without_locks_says_so(matrix_file, monkeypatch):
    comparison = load_comparison(matrix_file())
    comparison.save()

    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match="cannot be locked"), RunFolder(comparison.folder).lock():
        pass


def test_a_second_compare_is_refused_before_it_writes(script, matrix_file, capsys):
    comparison = load_comparison(matrix_file())
    comparison.folder.mkdir(parents=True)
    with RunFolder(comparison.folder).lock():
        before = [*comparison.folder.rglob("*")]
        assert script("compare", "--config", matrix_file()) == 2
        assert [*comparison.folder.rglob("*")] == before
    assert "in use by another process" in capsys.readouterr().err


def test_two_reports_at_once_do_not_collide(written):
    folder = written(lambda config: 1.0 + config.seed, games="[Pong]", seeds="[1]").folder
    with ThreadPoolExecutor(2) as pool:
        pages = [pool.submit(write_report, Comparison.load(folder)) for _ in range(2)]
        assert {page.result() for page in pages} == {folder / "report.html"}
    assert not [path for path in folder.rglob("*.tmp*") if "seed" not in str(path)]


@pytest.mark.parametrize("name", ["config.yaml", "monitor.csv"])
def test_a_broken_run_is_named_and_left_out(written, name):
    comparison = written(lambda config: 1.0 + config.seed, games="[Pong]", seeds="[1, 2]")
    broken = Path(comparison.runs[0].folder)
    (broken / name).write_text("#\n\nx,x,x,x\n")
    analysis = analyse(Comparison.load(comparison.folder))
    assert len(analysis.runs) == 3
    assert analysis.notes[0].startswith("Pong/cnn/seed1: left out, as it cannot be read")


def test_a_table_is_drawn_at_a_change_and_not_every_second(matrix_file, capsys):
    comparison = load_comparison(matrix_file())
    comparison.save()
    table = MatrixTable(make_jobs(comparison, ["train"], 0))
    first, second = (job.name for job in table.jobs[:2])
    table.show({})
    table.show({})
    table.show({first: JobResult("finished")})
    table.show({first: JobResult("finished")})
    table.show({first: JobResult("finished"), second: JobResult("failed")})
    lines = [line.split(";")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "16 waiting",
        f"{first}: finished",
        "1 finished, 15 waiting",
        f"{second}: failed",
        "1 finished, 1 failed, 14 waiting",
    ]


NICE = """
import os, subprocess
from rl_coordconv.compare.jobs import tied_to_parent
print(os.nice(7), flush=True)
subprocess.run(tied_to_parent(["cat", "/proc/self/autogroup"]), start_new_session=True, check=True)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/autogroup"), reason="needs Linux with autogroups")
def test_a_run_is_as_nice_as_its_comparison():
    """Linux shares processors between sessions, whatever the nice values in them."""
    done = subprocess.run([sys.executable, "-c", NICE], capture_output=True, text=True, check=True)
    level, *_, word, found = done.stdout.split()
    assert int(level) > 0
    assert (word, found) == ("nice", level)  # 7, or more where the tests are nice themselves
