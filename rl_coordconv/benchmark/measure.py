"""
The measuring engine: every peer in a process of its own, taking turns.

Rounds go A, B, C, then C, B, A, and so on, so that a machine that slows down slows all of them; ratios are
taken within a round (:mod:`.report`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from rich.progress import track

from rl_coordconv.benchmark.env import ENV
from rl_coordconv.benchmark.layer import LAYER
from rl_coordconv.benchmark.setting import Benchmark, Setting
from rl_coordconv.benchmark.train import TRAIN
from rl_coordconv.errors import UserError
from rl_coordconv.openmp import WAITING

BENCHMARKS: dict[str, Benchmark] = {"layer": LAYER, "env": ENV, "train": TRAIN}
"""Every benchmark by its name on the command line."""

Rounds = dict[str, dict[str, list[dict[str, float]]]]
"""By case and peer, a measurement per round: ``rate`` per second and ``memory`` in MB."""


def measure(what: str, peers: Sequence[str], setting: Setting, rounds: int, seconds: float) -> Rounds:
    """
    Let peers do the same work in turns.

    :param what: Name in ``BENCHMARKS``
    :param peers: Names of its peers; those that this machine cannot have are left out, and said so
    :param setting: What they work on
    :param rounds: Measurements of each peer
    :param seconds: How long a measurement takes at least
    :raises UserError: A peer died, or this machine can have none of them
    """
    measured: Rounds = {}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Connection] = {}
        for peer in peers:
            pipe = stack.enter_context(worker(what, peer, setting, seconds))
            if reason := answer(pipe, peer):
                print(f"{peer} left out: {reason}", file=sys.stderr)
            else:
                workers[peer] = pipe
        if not workers:
            raise UserError(f"nothing to measure: this machine has none of {', '.join(peers)}")
        for number in track(range(rounds), description=what):
            for peer in list(workers)[:: -1 if number % 2 else 1]:
                workers[peer].send("go")
                for case, values in answer(workers[peer], peer).items():
                    measured.setdefault(case, {}).setdefault(peer, []).append(values)
    return {case: {peer: found[peer] for peer in peers if peer in found} for case, found in measured.items()}


def answer(pipe: Connection, peer: str) -> Any:
    """Return what a worker says."""
    try:
        return pipe.recv()
    except EOFError:
        raise UserError(f"peer {peer} died: its own words are above") from None


@contextlib.contextmanager
def worker(what: str, peer: str, setting: Setting, seconds: float) -> Iterator[Connection]:
    """Give the pipe to a process that runs a peer; it ends with the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(what, peer, setting, seconds, theirs))
    # Our scripts say how OpenMP's threads wait between operations; the others run as they would without us.
    with waiting(WAITING if peer.startswith("ours") else {}):
        process.start()
    theirs.close()  # or a worker that dies would be waited for
    try:
        yield ours
        with contextlib.suppress(BrokenPipeError):
            ours.send(None)
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()


@contextlib.contextmanager
def waiting(wanted: Mapping[str, str]) -> Iterator[None]:
    """Let OpenMP's threads wait in this way, or as they do by default, in processes started in the block."""
    before = {name: os.environ.pop(name) for name in WAITING if name in os.environ}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in WAITING:
            os.environ.pop(name, None)
        os.environ.update(before)


def work(what: str, peer: str, setting: Setting, seconds: float, pipe: Connection) -> None:
    """Run one peer in this process: set up, warm up, then a round for every message."""
    try:
        cases = BENCHMARKS[what].peers[peer](setting)
    except (ImportError, UserError) as error:
        pipe.send(str(error))
        return
    for run in cases.values():
        run()
    pipe.send("")
    while pipe.recv():
        pipe.send({case: timed(run, seconds, setting.device) for case, run in cases.items()})


def timed(run: Callable[[], int], seconds: float, device: str) -> dict[str, float]:
    """
    Repeat a piece of work for a while.

    :return: ``rate`` per second and ``memory`` in MB
    """
    amount, elapsed = 0, 0.0
    synchronise(device)
    start = time.perf_counter()
    while elapsed < seconds:
        amount += run()
        synchronise(device)
        elapsed = time.perf_counter() - start
    return {"rate": amount / elapsed, "memory": memory(device)}


def synchronise(device: str) -> None:
    """Wait for the GPU, where there is one."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def memory(device: str) -> float:
    """Return the largest memory so far in MB: of the GPU, or of this process without its children."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_reserved(device) / 1e6  # with what CUDA graphs keep
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
