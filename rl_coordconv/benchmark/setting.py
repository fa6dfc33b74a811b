"""What a benchmark measures under, and what its peers have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """
    Where and on what peers are measured.

    :param game: Canonical name of the game
    :param algo: ``ppo`` or ``a2c``
    :param n_envs: Number of environments
    :param device: ``cpu``, ``cuda`` or ``cuda:N``
    """

    game: str
    algo: str
    n_envs: int
    device: str


Cases = dict[str, Callable[[], int]]
"""What one peer can be asked to run, by name; each call does a piece of work and returns its amount."""

Peer = Callable[[Setting], Cases]
"""Sets one peer up in a process of its own."""


@dataclass(frozen=True)
class Benchmark:
    """
    Peers that do the same work.

    :param title: What is measured, for people
    :param peers: What they are called on the command line and in tables, and what sets them up
    :param reference: The peer whose speed counts as 1
    :param unit: What is counted, per second
    :param seconds: How long a measurement takes at least
    :param rounds: Measurements of each peer, unless told otherwise
    """

    title: str
    peers: dict[str, Peer]
    reference: str
    unit: str
    seconds: float
    rounds: int
