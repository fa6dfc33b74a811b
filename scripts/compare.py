"""
Train every run of a comparison and report whether CoordConv helps.

python scripts/compare.py --config configs/compare/smoke.yaml
python scripts/compare.py --config configs/compare/atari9_ppo.yaml --executor ray --address auto

python scripts/compare.py --config configs/compare/smoke.yaml --results docs/results/smoke

With --results, scores and curves outlive the runs: what is recorded there is not trained again. Started
again, it skips finished runs and goes on with unfinished ones. On disk afterwards, under ``runs/<name>/``:
the runs, ``comparison.yaml``, ``report.html`` and ``report.md``, ``figures/``, ``scores.csv``,
``curves.csv``, ``summary/`` (for TensorBoard), and in ``jobs/`` what each run printed. Exit code: 0; 1 if a
run failed; 2 for wrong options; 130 if stopped.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from rl_coordconv.errors import UserError, one_line_errors, script_needs

with script_needs("report"):
    from rl_coordconv.cli import parse_dataclass
    from rl_coordconv.compare.collect import collect
    from rl_coordconv.compare.comparison import Comparison
    from rl_coordconv.compare.jobs import Job, JobResult, make_jobs
    from rl_coordconv.compare.local import default_slots, run_local
    from rl_coordconv.compare.matrix import check_existing_runs, load_comparison
    from rl_coordconv.compare.on_ray import run_on_ray
    from rl_coordconv.compare.plan import plan
    from rl_coordconv.compare.report import verdict_text, write_report
    from rl_coordconv.compare.results import Results
    from rl_coordconv.compare.rundata import RunData
    from rl_coordconv.compare.table import MatrixTable
    from rl_coordconv.compare.tidy import read_csv
    from rl_coordconv.files import make_folder
    from rl_coordconv.runs.folder import RunFolder

TRAIN = (sys.executable, str(Path(__file__).absolute().with_name("train.py")))


@dataclass
class CompareConfig:
    """Compare arms over games and seeds.

    Args:
        config: YAML file with games, arms and seeds
        executor: Where the runs go: local (this machine) or ray (extra ray)
        slots: Runs side by side (null: as many as the machine carries)
        address: Ray cluster to join, e.g. auto or 10.0.0.1:6379 (null: start Ray on this machine)
        retries: How often a failed run is tried again
        output: Folder that holds all experiments (null: the file's, else runs)
        results: Folder to commit, in which scores and curves outlive the runs (null: none)
    """

    config: Path | None = None
    executor: Literal["local", "ray"] = "local"
    slots: int | None = None
    address: str | None = None
    retries: int = 2
    output: str | None = None
    results: Path | None = None


@one_line_errors()
def main(args: Sequence[str]) -> None:
    """Validate everything, train what is not trained, then write the report."""
    config = parse_dataclass(CompareConfig, args, prog="compare.py")
    if config.config is None:
        raise UserError("give the comparison: --config configs/compare/smoke.yaml")
    if config.address is not None and config.executor != "ray":
        raise UserError("address is for --executor ray")
    comparison = load_comparison(config.config, config.output)
    check_existing_runs(comparison)
    kept = Results(config.results, comparison) if config.results else None
    comparison = kept.comparison if kept else comparison
    make_folder(comparison.folder, "output folder")
    with RunFolder(comparison.folder).lock():
        comparison.save()
        jobs = make_jobs(comparison, TRAIN, config.retries)
        jobs = kept.open_jobs(jobs) if kept else jobs
        slots = config.slots or (None if config.executor == "ray" else default_slots(jobs))
        print("\n".join(plan(comparison, jobs, slots, known_runs(config, comparison))), file=sys.stderr)
        results = execute(jobs, config, slots, kept)
        data = collect(comparison)
        if kept:
            kept.add([run for run in data.runs if run.foreign])
        page = write_report(comparison, data)
    print(f"{verdict_text(page)}\nreport   {page}")
    print(f"curves   tensorboard --logdir {comparison.folder}  (see Custom Scalars)")
    failed = {name: result for name, result in results.items() if result.state == "failed"}
    for name, result in failed.items():
        print(f"failed: {name}: {result.message}", file=sys.stderr)
    if any(result.state == "stopped" for result in results.values()):
        print("stopped and saved: start it again to go on", file=sys.stderr)
        raise SystemExit(130)
    if failed:
        raise SystemExit(1)


def known_runs(config: CompareConfig, comparison: Comparison) -> list[RunData]:
    """Return runs that tell how long others will take: those recorded, else those of the last report."""
    if config.results:
        return read_csv(config.results)
    with contextlib.suppress(UserError):  # the report writes its tables anew
        return read_csv(comparison.folder)
    return []


def execute(
    jobs: list[Job], config: CompareConfig, slots: int | None, kept: Results | None
) -> dict[str, JobResult]:
    """Carry out the jobs and record their scores; on SIGINT or SIGTERM they save and end."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        print("\nstopping: running runs finish their rollout and save", file=sys.stderr)
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with MatrixTable(jobs) as table:

            def show(results: dict[str, JobResult]) -> None:
                table.show(results)
                if kept:
                    kept.record(jobs, results)

            if config.executor == "ray":
                return run_on_ray(jobs, slots, config.address, show, stop)
            return run_local(jobs, slots or 1, show, stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main(sys.argv[1:])
