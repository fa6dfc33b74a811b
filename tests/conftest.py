"""Shared by all tests."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]

# Small networks on small batches: a second thread costs more than it brings, above all beside other tests.
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
torch.set_num_threads(1)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run a script's ``main`` in an empty folder and return the exit code that its process would have."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *args: object) -> int:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(__import__("sys").modules, name, module)
        spec.loader.exec_module(module)
        try:
            module.main([str(arg) for arg in args])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


@pytest.fixture
def refused(
    script: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Run a script that must refuse its arguments, in one line and leaving nothing, and return the line."""

    def run(name: str, *args: object) -> str:
        assert script(name, *args) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert not list(tmp_path.iterdir())
        return error

    return run


@pytest.fixture
def coarse_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save figures with few pixels and without laying them out, which is most of the work."""
    savefig = Figure.savefig

    def coarse(figure: Figure, *args: Any, **options: Any) -> None:
        figure.set_layout_engine("none")
        savefig(figure, *args, **(options | {"dpi": 20}))

    monkeypatch.setattr(Figure, "savefig", coarse)


@pytest.fixture
def curves() -> Callable[[Path], dict[str, list[tuple[int, float]]]]:
    """Read the scalars of a run back from its event files, as TensorBoard would show them."""

    def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        return {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }

    return read
