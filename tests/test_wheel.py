"""
The wheel, installed with its core dependencies alone.

Nothing is downloaded: the new environment sees, by links, those distributions of the one that runs the tests
which the wheel's metadata asks for, and what they ask for.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
AGENT = next(iter(sorted(ROOT.glob("agents/*/model.safetensors"))), ROOT / "tests/data/v1/agent/x").parent
SCRIPTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "scripts").glob("*.py"))}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = ["pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir"]
    subprocess.run([sys.executable, "-m", *build, str(folder), str(ROOT)], check=True)
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of the new environment."""
    home = tmp_path_factory.mktemp("core") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    interpreter = home / "bin" / "python"
    [site] = home.glob("lib/python3*/site-packages")
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(interpreter)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    [info] = site.glob("rl_coordconv-*.dist-info")
    for found in needed_by(PathDistribution(info)).values():
        for top in {Path(str(file)).parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    subprocess.run([*pip, "check"], check=True)
    return interpreter


def needed_by(start: Distribution) -> dict[str, Distribution]:
    """Return the distributions that one asks for without extras, and those that they ask for."""
    found: dict[str, Distribution] = {}
    waiting = [(start, {""})]
    while waiting:
        asking, extras = waiting.pop()
        for line in asking.requires or ():
            wanted = Requirement(line)
            if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
                continue
            if wanted.name not in found:
                found[wanted.name] = distribution(wanted.name)
                waiting.append((found[wanted.name], {"", *wanted.extras}))
    return found


# One process tells it all, as importing PyTorch takes seconds.
PROGRAM = f"""
import contextlib, importlib.util, io, json, runpy, sys
import gymnasium, numpy, stable_baselines3, torch
before = set(sys.modules)
import rl_coordconv, rl_coordconv.layers, rl_coordconv.extractors
said = {{"place": rl_coordconv.__file__, "loaded": sorted(set(sys.modules) - before)}}

from rl_coordconv import UserError, load_agent, make_atari_vec_env, policy_kwargs
extras = ["rich", "jsonargparse", "rliable", "pandas", "scipy", "matplotlib", "cv2", "imageio", "ray", "onnx"]
said["extras"] = [name for name in extras if importlib.util.find_spec(name)]
env = make_atari_vec_env("Breakout", n_envs=2, seed=1)
size = {{"n_steps": 50, "batch_size": 50, "n_epochs": 1, "policy_kwargs": policy_kwargs("coordconv")}}
said["steps"] = stable_baselines3.PPO("CnnPolicy", env, **size).learn(500).num_timesteps
said["actions"] = load_agent({str(AGENT)!r}, "cpu").predict(env.reset())[0].shape

said["scripts"] = {{}}
for name in {list(SCRIPTS)}:
    with contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            runpy.run_path(f"{ROOT}/scripts/{{name}}.py", run_name="__main__")
        except SystemExit as stop:
            said["scripts"][name] = [stop.code, error.getvalue()]

said["missing"] = []
for backend in ("gymnasium", "envpool", "native"):
    if backend == "native":
        sys.modules["ale_py"] = None
        for name in [name for name in sys.modules if name.startswith("rl_coordconv.envs")]:
            del sys.modules[name]
    try:
        rl_coordconv.make_atari_vec_env("Pong", backend=backend)
    except UserError as error:
        said["missing"].append(str(error))
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(python, tmp_path_factory) -> dict[str, Any]:
    """What the new environment says of itself, and the files that it wrote on the way."""
    folder = tmp_path_factory.mktemp("said")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [python, "-c", PROGRAM], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "written": list(folder.iterdir())}


def test_the_wheel_holds_the_library_and_says_that_it_is_typed(wheel) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "rl_coordconv/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {
        "rl_coordconv",
        "-".join(wheel.name.split("-")[:2]) + ".dist-info",
    }
    assert {f"rl_coordconv/{path.relative_to(ROOT / 'rl_coordconv')}" for path in library()} <= set(names)


def library() -> list[Path]:
    return sorted((ROOT / "rl_coordconv").rglob("*.py"))


def test_layers_and_extractors_load_no_emulator_and_nothing_of_an_extra(said, python) -> None:
    assert Path(said["place"]).is_relative_to(python.parents[1]), "the wheel's, not that of the working tree"
    assert {name.partition(".")[0] for name in said["loaded"]} == {"rl_coordconv"}
    assert not [name for name in said["loaded"] if name.startswith("rl_coordconv.envs")]


def test_stock_ppo_trains_with_the_extractor_and_an_exported_agent_plays(said) -> None:
    assert said["extras"] == []
    assert (said["steps"], said["actions"]) == (500, [2])


def test_what_is_missing_is_named_with_the_command_that_installs_it(said) -> None:
    assert said["missing"] == [
        "cv2 is not installed: pip install 'rl-coordconv[train]'",
        "envpool is not installed: pip install 'rl-coordconv[envpool]'",
        "ale_py is not installed: pip install rl-coordconv",
    ]


def test_a_script_without_its_extra_says_so_in_one_line(said) -> None:
    extras = {name: re.findall(r'script_needs\("(\w+)"\)', text) for name, text in SCRIPTS.items()}
    assert {name: found for name, found in extras.items() if len(found) != 1} == {}
    assert list(said["scripts"]) == list(SCRIPTS)
    for name, (code, line) in said["scripts"].items():
        says = rf"error: \w+ is not installed: pip install 'rl-coordconv\[{extras[name][0]}\]'\n"
        assert (code, bool(re.fullmatch(says, line))) == (2, True), (name, line)
    assert said["written"] == []
