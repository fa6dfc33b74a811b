"""
What ``precision`` and ``compile`` came to, for a resume to compute alike, and all arms after ``auto``.

On disk, plain JSON::

    <output>/<name>/decisions.json                     by kind of machine, for every run of the experiment
    <output>/<name>/<game>/<arm>/seed<k>/decisions.json   what this run uses, with probes' figures
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import get_device

from rl_coordconv import machine
from rl_coordconv.algorithms.build import algorithm_class
from rl_coordconv.algorithms.on_policy import FastOnPolicyAlgorithm
from rl_coordconv.config import RunConfig
from rl_coordconv.files import alone, read_json, write_json

FILE = "decisions.json"
PROBED = ("precision", "compile")
Decisions = dict[str, dict[str, Any]]
"""By switch ``choice``, ``reason`` and ``measured``: null, or ``ratio`` and ``milliseconds``."""


@contextlib.contextmanager
def decided(config: RunConfig) -> Iterator[tuple[RunConfig, Decisions]]:
    """
    Give a run's config with what other runs of its experiment decided on this kind of machine.

    Until the block ends, no other run of this machine decides: add what this one does with :func:`keep`.

    :param config: Validated config
    """
    if not open_switches(config):
        yield config, {}
        return
    # Probes of two runs at a time would measure each other.
    with open(Path(tempfile.gettempdir()) / f"rl-coordconv-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = sound(read_json(_experiment(config)).get(machine_kind(config)))
        # What others decided is not for a switch that this run was told.
        known = {name: found for name, found in known.items() if name in open_switches(config)}
        yield settled(config, known), known


def keep(config: RunConfig, folder: Path, known: Decisions, model: OnPolicyAlgorithm) -> None:
    """
    Write what a run uses into its folder, and into its experiment's.

    :param config: The run's config, with its ``auto``
    :param folder: The run's folder
    :param known: What the experiment had decided before
    :param model: The run's algorithm, which has decided the rest
    """
    new = {name: dataclasses.asdict(found) for name, found in getattr(model, "decisions", {}).items()}
    used = {**new, **known}
    if used:
        write_json(folder / FILE, used)
    # What this run was told decides for no other.
    chosen = {name: found for name, found in used.items() if name in open_switches(config)}
    if not chosen.keys() <= known.keys():
        file = _experiment(config)
        file.parent.mkdir(parents=True, exist_ok=True)
        with alone(file.parent):  # other machines may share the disk
            there, kind = read_json(file), machine_kind(config)
            write_json(file, {**there, kind: {**chosen, **sound(there.get(kind))}})


def note_changes(folder: Path, model: OnPolicyAlgorithm) -> None:
    """
    Write down where a resumed run cannot have on this machine what it had before.

    :param folder: The run's folder
    :param model: Its algorithm, at the step that it resumes from
    """
    kept = of_run(folder)
    now = {name: dataclasses.asdict(found) for name, found in getattr(model, "decisions", {}).items()}
    changed = {
        name: {**found, "reason": f"{found['reason']}; {before} until step {model.num_timesteps:,}"}
        for name, found in now.items()
        if name in kept and found["choice"] != (before := kept[name]["choice"])
    }
    if changed:
        write_json(folder / FILE, {**kept, **changed})


def settled(config: RunConfig, decisions: Decisions) -> RunConfig:
    """Return a config with decisions in the place of what was asked for."""
    return dataclasses.replace(config, **{name: found["choice"] for name, found in decisions.items()})


def open_switches(config: RunConfig) -> set[str]:
    """Return the switches that a config leaves to be decided, where its algorithm and buffer have them."""
    if config.buffer == "host" or not issubclass(algorithm_class(config), FastOnPolicyAlgorithm):
        return set()
    return {name for name in PROBED if getattr(config, name) == "auto"}


def machine_kind(config: RunConfig) -> str:
    """Return what a speed depends on, in one line."""
    return ", ".join(
        filter(None, [get_device(config.device).type, *machine.describe(config.device).values()])
    )


def _experiment(config: RunConfig) -> Path:
    """Return the file of the experiment that a run belongs to."""
    return Path(config.output) / str(config.name) / FILE


def of_run(folder: Path) -> Decisions:
    """Return what the run in a folder uses, as far as it asked for more than float32."""
    return sound(read_json(folder / FILE))


def sound(found: Any) -> Decisions:
    """Return the entries of what a file says that are decisions."""
    entries = found if isinstance(found, dict) else {}
    return {
        name: entry
        for name, entry in entries.items()
        if name in PROBED and isinstance(entry, dict) and "choice" in entry
    }
