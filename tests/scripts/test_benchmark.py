"""The benchmark script measures real work and writes what it measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_coordconv.benchmark.pages import machine_name
from rl_coordconv.machine import versions


@pytest.mark.slow
def test_env_benchmark(
    script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = ["native", "sb3-dummy", "sb3-subproc"]
    args = ["env", "--rounds", "2", "--seconds", "0.1", "--n-envs", "1", "2", "--peers", *peers]
    args += ["--output", "out"]
    assert script("benchmark", *args) == 0
    folder = tmp_path / "out" / machine_name(versions())
    result = json.loads((folder / "env.json").read_text())
    assert list(result["rounds"]) == [f"Breakout, {n} environments" for n in (1, 2)]
    for measured in result["rounds"].values():
        assert list(measured) == peers
        for values in measured.values():
            assert len(values) == 2
            assert all(value["rate"] > 0 and value["memory"] > 50 for value in values)
    assert {"cpu", "cpu_flags", "cores", "torch_cpu_capability", "torch"} <= set(result["machine"])
    assert (folder / "env.png").stat().st_size > 5_000
    page = (folder / "README.md").read_text()
    assert "| sb3-subproc |" in page
    assert "| sb3-subproc |" in capsys.readouterr().out
    assert f"]({folder.name}/README.md)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["layr"], "did you mean 'layer'"),
        (["train", "--peers", "ours-cnn", "ours-coordcon"], "did you mean 'ours-coordconv'"),
        (["all", "--peers", "native"], "peers is for one of layer, env, train, not for all"),
        (["train", "--algo", "dqn"], "use one of ppo, a2c"),
        (["env", "--rounds", "0"], "rounds is 0"),
        (["env", "--seconds", "-1"], "seconds is -1"),
        (["env", "--n-envs", "8", "0"], "n_envs is [8, 0]"),
        (["env", "--game", "Brekout"], "Breakout"),
        (["page", "--output", "nowhere"], "'nowhere' holds no results"),
        (["env", "--output", "/etc/passwd"], "'/etc/passwd' is not a folder that can be written to"),
    ],
)
def test_bad_input(args: list[str], words: str, refused: Callable[..., str]) -> None:
    assert words in refused("benchmark", *args)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"what": "env", "rounds": {}, "machine": {}}'])
def test_a_damaged_result_is_named_before_anything_is_measured(
    text: str, script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "machine").mkdir(parents=True)
    (tmp_path / "out" / "machine" / "env.json").write_text(text)
    for what in (["layer", "--peers", "cnn"], ["page"]):
        assert script("benchmark", *what, "--output", "out") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: 'out/machine/env.json' is damaged")
        assert error.count("\n") == 1


def test_without_any_peer_nothing_is_written(
    script: Callable[..., int],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hidden = tmp_path_factory.mktemp("modules")
    (hidden / "envpool.py").write_text("raise ModuleNotFoundError('no envpool', name='envpool')\n")
    monkeypatch.syspath_prepend(hidden)  # which the peer's process inherits
    assert script("benchmark", "env", "--peers", "envpool", "--device", "cpu", "--output", "out") == 2
    said = capsys.readouterr().err
    assert "envpool is not installed" in said
    assert "error: nothing to measure: this machine has none of envpool" in said
    assert list(tmp_path.iterdir()) == []
