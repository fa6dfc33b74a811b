"""Runs on a real Ray cluster of two nodes: asked once to stop, and sent only where they can run."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from trainers import BEGIN

from rl_coordconv.compare import on_ray
from rl_coordconv.compare.jobs import make_jobs
from rl_coordconv.compare.matrix import load_comparison
from rl_coordconv.errors import UserError
from rl_coordconv.runs.folder import RunFolder

pytestmark = pytest.mark.slow

# A trainer that saves when it is asked to stop, and counts how often it is.
TRAINER = f"""{BEGIN}
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
begin()
write("running", steps=1, attempts=1)
while not asked:
    time.sleep(0.05)
time.sleep(3)  # saving takes longer than the executor's next look
(run / "asked").write_text(str(len(asked)))
write("stopped", steps=2, attempts=1, cause="signal")
"""


@pytest.fixture(scope="module")
def cluster():
    """Start a head without CPUs and two nodes of one CPU each."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def test_every_task_is_asked_once_to_stop_and_ends_with_a_saved_run(cluster, matrix_file):
    comparison = load_comparison(matrix_file(games="[Pong]", seeds="[1, 2]"))
    comparison.save()
    jobs = make_jobs(comparison, [sys.executable, "-c", TRAINER], retries=2)
    stop = threading.Event()

    def show(results):
        running = [job for job in jobs if job.run.read_progress().state == "running"]
        if len(running) == 2:
            stop.set()

    results = on_ray.run_on_ray(jobs, None, cluster.address, show, stop)
    assert {result.state for result in results.values()} == {"stopped"}
    began = [RunFolder(job.run.path) for job in jobs if job.run.config_file.is_file()]
    assert len(began) == 2
    for run in began:
        end = time.monotonic() + 20
        while run.read_progress().state != "stopped" and time.monotonic() < end:
            time.sleep(0.1)
        assert run.read_progress().state == "stopped"
        assert (run.path / "asked").read_text() == "1"


@pytest.mark.parametrize("lacks", ["folder", "library"])
def test_a_node_that_cannot_take_runs_is_named_before_any_is_sent(cluster, tmp_path, monkeypatch, lacks):
    ray = on_ray._start_ray(cluster.address)
    try:
        on_ray.check_nodes(ray, tmp_path)
        if lacks == "folder":
            missing, message = (
                tmp_path / "not mounted",
                "does not see .*not mounted",
            )
        else:
            missing, message = tmp_path, "has no rl_coordconv_of_elsewhere: pip install it"
            monkeypatch.setattr(on_ray, "PACKAGE", "rl_coordconv_of_elsewhere")
        with pytest.raises(UserError, match=rf"Ray node [\d.]+ cannot take runs: .*{message}"):
            on_ray.check_nodes(ray, missing)
    finally:
        ray.shutdown()


def test_a_node_without_this_library_can_still_say_so(tmp_path):
    cloudpickle = pytest.importorskip("ray").cloudpickle
    file = tmp_path / "look"
    file.write_bytes(cloudpickle.dumps(on_ray.make_look()))
    program = (
        "import sys; sys.modules['rl_coordconv'] = None; from ray import cloudpickle; "
        f"print(cloudpickle.load(open({str(file)!r}, 'rb'))({str(tmp_path)!r}, 'rl_coordconv'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "has no rl_coordconv: pip install it there" in done.stdout
