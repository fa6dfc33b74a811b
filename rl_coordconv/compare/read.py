"""One run of this project, read from its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rl_coordconv.compare.rundata import Curve, RunData, curve_of
from rl_coordconv.options import read_yaml
from rl_coordconv.runs import decisions
from rl_coordconv.runs.folder import RunFolder

COORD_TAG = ("coordconv/", "/coord_weight_ratio")
# What of versions.json is kept beside a score; a run on a GPU names that as its device.
VERSIONS = ("cpu", "torch", "rl-coordconv")


def read_run(run: RunFolder, comparison: str, game: str, arm: str, seed: int) -> RunData:
    """
    Read a run of this project.

    :param run: Its folder
    :param comparison: Name of its comparison
    :param game: Its game
    :param arm: Its arm
    :param seed: Its seed
    """
    options = read_yaml(run.config_file)
    steps, returns = run.read_games()
    progress, evaluations = run.read_progress(), run.read_evaluations()
    finished = progress.state == "finished"
    coordinates = run.read_coordinates()
    is_old = not run.progress.is_file()
    scalars = read_scalars(run.path) if is_old or (not coordinates and _has_coordinates(options)) else {}
    fps = scalars.get("time/fps")
    # Version 0.1.0 kept no progress: its curves tell how far a run has come.
    reached = [curve[0][-1] for curve in (fps, (steps, returns)) if curve is not None and len(curve[0])]
    total = int(options["total_timesteps"])
    last_step = total if finished else min(int(max([progress.steps, *reached])), total)
    speed = progress.steps_per_second or (float(fps[1][-1]) if fps else 0.0)
    final = evaluations[-1]["returns"] if finished and evaluations else []
    prefix, suffix = COORD_TAG
    coordinates = coordinates or {
        tag.removeprefix(prefix).removesuffix(suffix): curve
        for tag, curve in scalars.items()
        if tag.startswith(prefix) and tag.endswith(suffix)
    }
    found = curve_of(steps, returns, last_step, total)
    return RunData(
        comparison,
        game,
        arm,
        seed,
        progress=dataclasses.replace(progress, steps=last_step, steps_per_second=speed),
        total_steps=total,
        **found,
        eval_score=float(np.mean(final)) if final else None,
        eval_games=len(final),
        coord_use={layer: np.interp(found["grid"], *curve) for layer, curve in coordinates.items()},
        machine=read_machine(run, options),
    )


def _has_coordinates(options: Mapping[str, Any]) -> bool:
    return str(options.get("extractor", "")).startswith("coordconv")


def read_machine(run: RunFolder, options: Mapping[str, Any]) -> dict[str, str]:
    """Return what a run was trained on: device, processor, versions and precision, as far as kept."""
    found = {"precision": str(options.get("precision", "fp32"))}
    if versions := run.read_versions():
        found |= {name: str(versions[name]) for name in VERSIONS if name in versions}
        found["device"] = "cpu" if options.get("device") == "cpu" else str(versions.get("gpu", "cpu"))
    # What they came to on that machine, by ``auto`` or because it lacks what was asked for.
    for switch, decision in decisions.of_run(run.path).items():
        found[switch] = str(decision["choice"])
    return found


def read_scalars(path: Path) -> dict[str, Curve]:
    """Return all scalars in a folder's event files, as steps and values."""
    events = events_of(path)
    return {
        tag: (
            np.array([event.step for event in events.Scalars(tag)], dtype=np.float64),
            np.array([event.value for event in events.Scalars(tag)], dtype=np.float64),
        )
        for tag in events.Tags()["scalars"]
    }


def events_of(path: Path) -> EventAccumulator:
    """
    Return what a folder's event files hold: all scalars, and the newest picture of every tag.

    :param path: Folder; files cut off by a crash are read up to there
    """
    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 1, "images": 1})
    if any(path.glob("*.tfevents.*")):
        events.Reload()
    return events
