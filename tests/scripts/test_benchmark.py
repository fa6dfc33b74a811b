"""The benchmark script measures real work and writes what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


@pytest.mark.slow
def test_env_benchmark(tmp_path: Path) -> None:
    peers = ["native", "SB3 SubprocVecEnv"]
    args = ["env", "--rounds", "2", "--n-envs", "2", "3", "--peers", json.dumps(peers), "--output", "out"]
    done = subprocess.run([sys.executable, SCRIPT, *args], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "env.json").read_text())
    rows = {(row["peer"], row["case"]): row for row in result["summary"]}
    cases = [f"Breakout, {n} environments" for n in (2, 3)]
    assert set(rows) == {(peer, case) for peer in peers for case in cases}
    assert all(rows["SB3 SubprocVecEnv", case]["ratio"] == 1.0 for case in cases)
    for name, values in result["rounds"].items():
        assert len(values) == 2, name
        assert all(value["rate"] > 0 and value["memory"] > 50 for value in values)
    assert (tmp_path / "out" / "env.png").stat().st_size > 5_000
    assert "| native |" in done.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["layr"], "did you mean 'layer'"),
        (["train", "--peers", '["SB3 native"]'], "did you mean 'SB3, native'"),
        (["train", "--algo", "dqn"], "use one of ppo, a2c"),
        (["env", "--rounds", "0"], "rounds is 0"),
        (["env", "--n-envs", "8", "0"], "n_envs is [8, 0]"),
        (["env", "--game", "Brekout"], "Breakout"),
    ],
)
def test_bad_input(
    args: list[str],
    words: str,
    script: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert script("benchmark", *args) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
