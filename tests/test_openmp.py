"""How OpenMP's threads wait is said before PyTorch reads it, unless the environment says it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rl_coordconv.openmp import WAITING

ROOT = Path(__file__).parents[1]
# The script's own lines up to the import of PyTorch, which then finds the variables.
PROGRAM = """
import os, runpy, sys
class Seen(Exception): pass
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
            sys.stdout.flush()
            os._exit(0)
sys.meta_path.insert(0, Finder())
runpy.run_path(sys.argv[1], run_name="script")
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "passive 10000"),
        ({"OMP_WAIT_POLICY": "active"}, "active None"),
        ({"GOMP_SPINCOUNT": "5"}, "None 5"),
    ],
)
def test_training_says_how_threads_wait_before_pytorch_is_loaded(
    given: dict[str, str], expected: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ROOT / "scripts" / "train.py")],
        env={**environment, **given},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout.strip() == expected
