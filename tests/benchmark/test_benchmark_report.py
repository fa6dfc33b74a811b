"""Tables and pages say what was measured."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rl_coordconv.benchmark.layer import IMAGES
from rl_coordconv.benchmark.measure import BENCHMARKS, measure, memory
from rl_coordconv.benchmark.pages import (
    FILES,
    machine_name,
    overview,
    page,
    read_machines,
    read_results,
    write_result,
)
from rl_coordconv.benchmark.report import markdown, summarise_rounds
from rl_coordconv.benchmark.setting import Setting

SHIPPED = Path(__file__).parents[2] / "docs" / "benchmarks"


def rates(*values: float) -> list[dict[str, float]]:
    return [{"rate": value, "memory": 100.0} for value in values]


def result(**peers: list[dict[str, float]]) -> dict[str, Any]:
    return {"what": "env", "rounds": {"Pong": {name.replace("_", "-"): peers[name] for name in peers}}}


def test_ratios_are_taken_within_a_round() -> None:
    """The machine was half as fast in the second round: that must not show."""
    reference, native = summarise_rounds(result(sb3_subproc=rates(100, 50, 80), native=rates(200, 100, 240)))
    assert reference.ratio == (1.0, 1.0, 1.0)
    assert native.rate == (200, 100, 240)
    assert native.ratio == (2.0, 2.0, 3.0)


def test_without_the_reference_there_is_a_rate_and_no_ratio() -> None:
    table = markdown(result(native=rates(200, 100, 240)))
    assert table.splitlines()[-1] == "| Pong | native | 200 [100, 240] | - | 100 |"


def test_memory_is_that_of_the_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of children the system counts those that have ended, and not those at work."""
    peaks = {resource.RUSAGE_SELF: 300_000, resource.RUSAGE_CHILDREN: 50_000}
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=peaks[who]))
    assert memory("cpu") == 300
    assert "memory of main process" in markdown(result(native=rates(1)))


def session(date: str, **cases: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    facts = {
        "command": f"benchmark.py of {date}",
        "date": date,
        "seconds": 5.0,
        "machine": {"cpu": "x", "cores": "2"},
    }
    return {"what": "env", **facts, "rounds": cases}


def test_what_is_not_measured_again_stays(tmp_path: Path) -> None:
    """With its own command and date, and ratios within its own rounds."""
    write_result(
        tmp_path,
        "env",
        session(
            "2026-01-01",
            Pong={"sb3-subproc": rates(100, 100), "native": rates(200, 200), "envpool": rates(300, 300)},
            Qbert={"native": rates(7)},
        ),
    )
    page = write_result(
        tmp_path, "env", session("2026-02-02", Pong={"sb3-subproc": rates(50), "native": rates(250)})
    )
    write_result(tmp_path, "env", session("2026-03-03", Pong={"native": rates(260)}))
    kept = read_results(page.parent)["env"]
    assert [
        (row.case, row.peer, row.rate[0], row.ratio and row.ratio[0]) for row in summarise_rounds(kept)
    ] == [
        ("Pong", "native", 260, None),
        ("Pong", "sb3-subproc", 50, 1.0),
        ("Pong", "envpool", 300, 3.0),
        ("Qbert", "native", 7, None),
    ]
    text = page.read_text()
    assert all(
        f"`benchmark.py of {date}`, {date}" in text for date in ("2026-01-01", "2026-02-02", "2026-03-03")
    )
    again = session(
        "2026-04-04",
        Pong={name: rates(1) for name in ("sb3-subproc", "native", "envpool")},
        Qbert={"native": rates(1)},
    )
    write_result(tmp_path, "env", again)
    assert read_results(page.parent)["env"] == again


def test_every_reference_is_a_peer_and_every_peer_can_be_typed() -> None:
    for benchmark in BENCHMARKS.values():
        assert benchmark.reference in benchmark.peers
        assert not any(set(" ,[]'\"") & set(peer) for peer in benchmark.peers)


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ({"cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cores": "2"}, "intel-xeon-2-cores"),
        ({"cpu": "AMD EPYC 7763 64-Core Processor", "cores": "4"}, "amd-epyc-7763-4-cores"),
        ({"cpu": "AMD EPYC", "cpu_flags": "avx2 avx512_bf16", "cores": "2"}, "amd-epyc-bf16-2-cores"),
        ({"cpu": "x", "cores": "16", "gpu": "NVIDIA H100 80GB HBM3"}, "nvidia-h100-80gb-hbm3"),
    ],
)
def test_machines_have_folder_names(machine: dict[str, str], name: str) -> None:
    assert machine_name(machine) == name


def test_shipped_pages_are_what_their_results_make() -> None:
    machines = read_machines(SHIPPED)
    assert (SHIPPED / "README.md").read_text() == overview(machines)
    assert machines
    for name, results in machines.items():
        assert (SHIPPED / name / "README.md").read_text() == page(results), name
        assert {path.stem for path in (SHIPPED / name).glob("*.png")} == {*results}


def test_what_differs_between_sessions_of_a_page_is_said_with_each() -> None:
    old, new = (
        session("2026-01-01", Pong={"native": rates(1)}),
        session("2026-02-02", Pong={"native": rates(2)}),
    )
    new["machine"] |= {"torch": "9.9.9"}
    text = page({"env": old, "layer": {**new, "what": "layer"}})
    assert "| cores | 2 |" in text
    assert "| torch |" not in text
    assert text.count(" torch: 9.9.9.") == 1


def test_shipped_results_are_of_todays_peers() -> None:
    for folder in SHIPPED.glob("*/"):
        assert {path.stem for path in folder.glob("*.json")} <= {*FILES}
        for found in read_results(folder).values():
            for peers in found["rounds"].values():
                assert set(peers) <= set(BENCHMARKS[found["what"]].peers)


@pytest.mark.slow
def test_training_peers_train() -> None:
    setting = Setting("Breakout", "a2c", n_envs=2, device="cpu")
    measured = measure("train", ["sb3-native", "ours-cnn"], setting, rounds=1, seconds=0.1)
    assert list(measured) == ["A2C, Breakout, 2 environments"]
    assert list(measured["A2C, Breakout, 2 environments"]) == ["sb3-native", "ours-cnn"]


def test_layer_peers_run_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting("Breakout", "ppo", n_envs=8, device="cpu")
    for mode in IMAGES:
        monkeypatch.setitem(IMAGES, mode, 256)
    for build in BENCHMARKS["layer"].peers.values():
        cases = build(setting)
        assert len(cases) == 8
        assert [run() for run in cases.values()] == [256] * 8
