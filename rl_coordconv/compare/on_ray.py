"""
The Ray executor: runs as Ray tasks on this machine or a cluster (extra ``[ray]``).

Every node must see the comparison's folder under the same path, as on a shared file system. When a node
dies, Ray starts its tasks on another, where they resume from their checkpoints.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl_coordconv.compare.jobs import Job, JobResult, run_job
from rl_coordconv.compare.local import Show
from rl_coordconv.errors import UserError, last_line, needs

# Nodes that may die under one run before it counts as failed.
NODE_DEATHS = 10
CPUS_BESIDE_GPU = 2
NODE_SECONDS = 60
GPU_SHARE = 0.25
PACKAGE = __name__.partition(".")[0]


def carry_out(job: Job, environment: dict[str, str]) -> JobResult:
    """Carry out one job in a Ray task; Ray cancels it by an exception, on which the run saves and ends."""
    return run_job(job, environment, threading.Event())


def run_on_ray(
    jobs: list[Job], slots: int | None, address: str | None, show: Show, stop: threading.Event
) -> dict[str, JobResult]:
    """
    Carry out jobs on Ray.

    :param jobs: In the order in which they start
    :param slots: How many run side by side, or None for one per core (or four per GPU)
    :param address: Cluster to join; None starts Ray on this machine
    :param show: Called every second with the results so far
    :param stop: When set, running jobs save and end, and no other starts
    :return: Results by job name
    :raises UserError: Ray is not installed, there is no cluster at ``address``, or a node cannot take runs
    """
    ray = _start_ray(address)
    try:
        check_nodes(ray, Path.cwd())
        return _run(ray, jobs, slots or len(jobs), show, stop)
    finally:
        ray.shutdown()


def _start_ray(address: str | None) -> Any:
    with needs("ray"):
        import ray
        import ray.util.scheduling_strategies
    try:
        if address is not None and ":" in address and "://" not in address:
            # Ray itself tries for five minutes, then kills the process.
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster at address '{address}': {error}") from None
    return ray


def resources(device: str, has_gpus: bool) -> tuple[int, float]:
    """Return the cores and the share of a GPU that a run takes, by its device and what the cluster has."""
    return (CPUS_BESIDE_GPU, GPU_SHARE) if has_gpus and device != "cpu" else (1, 0.0)


def _run(ray: Any, jobs: list[Job], slots: int, show: Show, stop: threading.Event) -> dict[str, JobResult]:
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    task = ray.remote(max_retries=NODE_DEATHS)(carry_out)
    waiting = list(jobs)
    running: dict[Any, Job] = {}
    results: dict[str, JobResult] = {}
    asked: set[Any] = set()
    while waiting or running:
        while waiting and len(running) < slots and not stop.is_set():
            job = waiting.pop(0)
            cpus, gpus = resources(job.config.device, has_gpus)
            environment = {"OMP_NUM_THREADS": str(cpus), "MKL_NUM_THREADS": str(cpus)}
            running[task.options(num_cpus=cpus, num_gpus=gpus).remote(job, environment)] = job
        if stop.is_set():
            results |= {job.name: JobResult("stopped") for job in waiting}
            waiting.clear()
            for reference in running.keys() - asked:  # a second signal would end a run without saving
                ray.cancel(reference)
                asked.add(reference)
        for reference in ray.wait(list(running), timeout=1)[0] if running else ():
            job = running.pop(reference)
            results[job.name] = _result(ray, reference, stop)
            if results[job.name].stops_all:
                stop.set()
        show(results)
    return results


def check_nodes(ray: Any, directory: Path) -> None:
    """
    Make sure that every node sees the folder and can import this library.

    :param ray: The module, connected
    :param directory: Where the comparison runs
    :raises UserError: A node cannot; it is named, with what it lacks
    """
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    nodes = [node for node in ray.nodes() if node["Alive"]]
    look = ray.remote(num_cpus=0, max_retries=0)(make_look())
    for node in nodes:
        place = strategy(node_id=node["NodeID"], soft=False)
        try:
            lacks = ray.get(
                look.options(scheduling_strategy=place).remote(str(directory), PACKAGE), timeout=NODE_SECONDS
            )
        except ray.exceptions.RayError as error:
            lacks = last_line(error)
        if lacks:
            raise UserError(f"Ray node {node['NodeManagerAddress']} cannot take runs: {lacks}")


def make_look() -> Callable[[str, str], str]:
    """
    Return what tells what a node lacks to train, empty if nothing.

    Defined within a function, so that Ray sends its code: a node without this library can run it too.
    """

    def look(directory: str, package: str) -> str:
        if importlib.util.find_spec(package) is None:
            return f"its Python {sys.executable} has no {package}: pip install it there"
        if not os.access(directory, os.W_OK):
            return f"it does not see '{directory}' as a folder to write to: share it under the same path"
        return ""

    return look


def _result(ray: Any, reference: Any, stop: threading.Event) -> JobResult:
    try:
        result: JobResult = ray.get(reference)
        return result
    except (ray.exceptions.RayError, KeyboardInterrupt) as error:
        if stop.is_set():
            return JobResult("stopped")
        return JobResult("failed", last_line(error))
