"""Real comparisons from end to end: stopped, killed and failing ones lose no run and double none."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_runs import wait_for

from rl_coordconv.compare import local
from rl_coordconv.compare.collect import collect
from rl_coordconv.compare.comparison import Comparison
from rl_coordconv.compare.local import default_slots, slot_environment
from rl_coordconv.compare.matrix import load_comparison
from rl_coordconv.compare.on_ray import resources
from rl_coordconv.runs.folder import RunFolder

COMPARE = Path(__file__).parents[2] / "scripts" / "compare.py"
MATRIX = """
games: [Breakout]
seeds: [{seeds}]
common:
  total_timesteps: {steps}
  n_envs: 4
  device: cpu
  eval_episodes: 1
  eval_freq: 0
  checkpoint_freq: 128
  features_dim: 32
  max_frames: 400
  ppo: {{n_steps: 32, batch_size: 64, n_epochs: 1}}
arms:
  cnn: {{extractor: cnn}}
  coordconv: {{extractor: coordconv}}
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start ``scripts/compare.py`` on a small matrix of real runs, its own process."""

    def run(*args: object, steps: int = 1024, seeds: str = "1") -> subprocess.Popen[str]:
        file = tmp_path / "small.yaml"
        file.write_text(MATRIX.format(steps=steps, seeds=seeds))
        words = [sys.executable, str(COMPARE), "--config", str(file), *map(str, args)]
        return subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)

    return run


def checkpoints(folder: Path) -> list[Path]:
    return [*folder.rglob("checkpoints/*.zip")]


def check_complete(folder: Path, steps: int) -> Comparison:
    """Every run is there once, finished, with every step trained once."""
    comparison = Comparison.load(folder)
    runs = collect(comparison).runs
    assert len(runs) == len(comparison.arms) * len(comparison.seeds)
    for run in runs:
        assert run.finished
        assert run.last_step == steps
        path = RunFolder(folder / run.name)
        assert [evaluation["step"] for evaluation in path.read_evaluations()] == [steps]
        assert np.all(np.diff(path.read_games()[0]) >= 0)
    assert (folder / "report.html").is_file()
    return comparison


def slots(n_jobs: int, finished: int = 0, device: str = "auto") -> int:
    """The runs side by side of so many, of which some are finished."""
    jobs = [
        SimpleNamespace(
            run=SimpleNamespace(finished=number < finished), config=SimpleNamespace(device=device)
        )
        for number in range(n_jobs)
    ]
    return default_slots(jobs)  # type: ignore[arg-type]


def test_runs_side_by_side_fill_cores_or_the_memory_of_gpus(monkeypatch):
    monkeypatch.setattr(local, "available_cores", lambda: 8)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (slots(20), slots(3), slots(20, finished=18)) == (8, 3, 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda gpu: ([4 << 30, 7 << 30][gpu], 80 << 30))
    assert slots(20) == 3
    assert slots(20, device="cpu") == 8
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda gpu: (80 << 30, 80 << 30))
    assert slots(20) == 4, "two cores each"


@pytest.mark.slow
def test_killed_and_started_again(start, script, tmp_path):
    folder = tmp_path / "runs" / "small"
    process = start("--slots", 2, steps=2048)
    wait_for(lambda: len(checkpoints(folder)) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = ("compare", "--config", tmp_path / "small.yaml", "--slots", 2)
    assert script(*again) == 0
    check_complete(folder, 2048)
    assert "--resume" in "".join(path.read_text() for path in (folder / "jobs").glob("*.log"))
    finished = {path: path.stat().st_mtime_ns for path in folder.rglob("final_model.zip")}
    assert script(*again) == 0
    assert finished == {path: path.stat().st_mtime_ns for path in folder.rglob("final_model.zip")}


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(start, tmp_path):
    folder = tmp_path / "runs" / "small"
    process = start("--slots", 1, steps=100_000)
    wait_for(lambda: checkpoints(folder))
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "start it again to go on" in log
    assert "Traceback" not in log
    assert not list(folder.rglob("final_model.zip"))


@pytest.mark.slow
def test_a_run_that_is_refused_is_reported_not_retried_and_stops_no_other(script, tmp_path, capsys):
    folder = tmp_path / "runs" / "small"
    file = write(tmp_path, steps=256)
    broken = load_comparison(file).runs[0]
    (folder / "Breakout" / "cnn").mkdir(parents=True)
    (folder / "Breakout" / "cnn" / f"seed{broken.seed}").write_text("a file where a folder should be")
    assert script("compare", "--config", file, "--retries", 1) == 1
    assert capsys.readouterr().err.count("failed: Breakout/cnn/seed1: exit code 2") == 1
    assert (folder / "jobs" / "Breakout_cnn_seed1.log").read_text().count("--- attempt") == 1
    assert (folder / "Breakout" / "coordconv" / "seed1" / "final_model.zip").is_file()
    assert "Not begun: Breakout/cnn/seed1" in (folder / "report.md").read_text()


def write(folder: Path, steps: int) -> Path:
    file = folder / "small.yaml"
    file.write_text(MATRIX.format(steps=steps, seeds="1"))
    return file


def test_a_run_on_the_cpu_takes_no_share_of_a_gpu():
    assert resources("cpu", has_gpus=True) == resources("auto", has_gpus=False) == (1, 0.0)
    assert resources("auto", has_gpus=True) == (2, 0.25)


def test_slots_share_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environments = [slot_environment(slot, 3, "auto") for slot in range(3)]
    assert {environment["OMP_NUM_THREADS"] for environment in environments} == {"2"}
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["0", "1", "0"]
    assert "CUDA_VISIBLE_DEVICES" not in slot_environment(0, 3, "cuda:1")


@pytest.mark.slow
def test_a_node_of_a_ray_cluster_dies(start, tmp_path):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    # Ray's own values let a node be silent for half a minute.
    impatient = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "_system_config": impatient}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        folder = tmp_path / "runs" / "small"
        process = start("--executor", "ray", "--address", cluster.address, steps=6144)
        wait_for(lambda: len({path.parent for path in checkpoints(folder)}) == 2)
        assert not list(folder.rglob("final_model.zip"))
        cluster.remove_node(nodes[0], allow_graceful=False)
        _, log = process.communicate(timeout=300)
        assert process.returncode == 0, log
    finally:
        cluster.shutdown()
    check_complete(folder, 6144)
    logs = [path.read_text() for path in (folder / "jobs").glob("*.log")]
    assert sum("--resume" in log for log in logs) == 1


def test_no_cluster_at_the_address_is_one_line(script, tmp_path, capsys):
    pytest.importorskip("ray")
    file = write(tmp_path, steps=256)
    assert script("compare", "--config", file, "--executor", "ray", "--address", "127.0.0.1:1") == 2
    assert "no Ray cluster at address '127.0.0.1:1'" in capsys.readouterr().err
