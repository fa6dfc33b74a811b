"""The local executor: one process per slot; CPU threads and GPUs are divided among the slots."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import torch

from rl_coordconv.compare.jobs import Job, JobResult, run_job
from rl_coordconv.machine import available_cores

# A Nature-CNN run with its CUDA context stays below this; PyTorch takes memory only as it needs it.
GPU_BYTES_PER_RUN = 3 * 2**30
Show = Callable[[dict[str, JobResult]], None]


def default_slots(jobs: Sequence[Job]) -> int:
    """
    Return how many runs go side by side: one per core, on GPUs as many as fit into memory, 2 cores each.

    :param jobs: Those that are finished take none
    """
    wanted = [job for job in jobs if not job.run.finished]
    n_jobs, cores = len(wanted), available_cores()
    if not torch.cuda.is_available() or all(job.config.device == "cpu" for job in wanted):
        return max(1, min(n_jobs, cores))
    free = [torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())]
    return max(1, min(n_jobs, cores // 2, sum(size // GPU_BYTES_PER_RUN for size in free)))


def slot_environment(slot: int, slots: int, device: str) -> dict[str, str]:
    """
    Return the variables that give a slot its share of the machine; emulators take OpenMP's number too.

    :param slot: Its number, from 0
    :param slots: How many there are
    :param device: The run's device; ``cuda:1`` means that GPU, whatever the slot
    """
    threads = max(1, available_cores() // slots)
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    gpus = torch.cuda.device_count()
    if gpus > 1 and device in ("auto", "cuda"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(gpu) for gpu in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = names[slot % gpus]
    return environment


def run_local(jobs: list[Job], slots: int, show: Show, stop: threading.Event) -> dict[str, JobResult]:
    """
    Carry out jobs on this machine.

    :param jobs: In the order in which they start
    :param slots: How many run side by side
    :param show: Called every second with the results so far
    :param stop: When set, running jobs save and end, and no other starts
    :return: Results by job name
    """
    free: SimpleQueue[int] = SimpleQueue()
    for slot in range(slots):
        free.put(slot)

    def carry_out(job: Job) -> JobResult:
        if stop.is_set():
            return JobResult("stopped")
        slot = free.get()
        try:
            result = run_job(job, slot_environment(slot, slots, job.config.device), stop)
            if result.stops_all:
                stop.set()
            return result
        finally:
            free.put(slot)

    with ThreadPoolExecutor(max_workers=slots) as pool:
        futures: dict[str, Future[JobResult]] = {job.name: pool.submit(carry_out, job) for job in jobs}
        try:
            while not all(future.done() for future in futures.values()):
                show(_results(futures))
                time.sleep(1)
        except BaseException:
            stop.set()
            raise
    show(_results(futures))
    return _results(futures)


def _results(futures: dict[str, Future[JobResult]]) -> dict[str, JobResult]:
    done = {name: future for name, future in futures.items() if future.done()}
    return {
        name: JobResult("failed", repr(future.exception())) if future.exception() else future.result()
        for name, future in done.items()
    }
