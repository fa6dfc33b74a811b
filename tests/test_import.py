"""What ``import rl_coordconv`` loads, and that every public name is there."""

from __future__ import annotations

import subprocess
import sys

import rl_coordconv


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages that a new Python has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_nothing_that_its_dependencies_alone_do_not() -> None:
    alone = loaded_by("import stable_baselines3, torch, gymnasium, numpy")
    ours = loaded_by("import rl_coordconv, rl_coordconv.layers, rl_coordconv.extractors")
    assert ours - alone == {"rl_coordconv"}


def test_every_public_name_is_there_and_listed() -> None:
    for name in rl_coordconv.__all__:
        assert hasattr(rl_coordconv, name), name
    assert set(rl_coordconv.__all__) <= set(dir(rl_coordconv))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(rl_coordconv, "CoordConv3d")
