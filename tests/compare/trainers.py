"""Trainers that do what they are told, without the seconds that importing PyTorch takes."""

from __future__ import annotations

BEGIN = """
import json, pathlib, signal, sys, time
import yaml

*told, option, place = sys.argv[1:]
run = pathlib.Path(place)
if option == "--config":
    values = yaml.safe_load(run.read_text())
    run = pathlib.Path(*(values[key] for key in ("output", "name", "game", "arm")), f"seed{values['seed']}")

def begin():
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(pathlib.Path(place).read_text())

def write(state, **values):
    (run / "draft").write_text(json.dumps({"state": state, **values}))
    (run / "draft").rename(run / "progress.json")
"""
"""
Names for a trainer's program: ``told``, its own arguments; ``run``, its folder; ``option``, whether it starts
or resumes; ``begin()`` and ``write(state, ...)``, which make the folder and its ``progress.json``.
"""
