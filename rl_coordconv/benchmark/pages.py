"""
Pages of results, a folder per kind of machine, all made from JSON.

On disk::

    docs/benchmarks/README.md                   the machines side by side
    docs/benchmarks/<machine>/README.md         tables and charts of one machine
    docs/benchmarks/<machine>/train_ppo.json    every measurement, machine, versions, command
    docs/benchmarks/<machine>/train_ppo.png     bar chart
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rl_coordconv.benchmark.measure import BENCHMARKS
from rl_coordconv.benchmark.report import markdown, plot, sessions, summarise_rounds, with_earlier, written
from rl_coordconv.errors import UserError
from rl_coordconv.files import make_folder, write_text
from rl_coordconv.markdown import markdown_table

FILES = ("train_ppo", "train_a2c", "env", "layer")
"""Results of a machine, in the order of its page."""

HEADLINES = {
    "PPO, ours-coordconv / sb3": ("train_ppo", "ours-coordconv", "PPO"),
    "PPO in bf16": ("train_ppo", "ours-coordconv-bf16", "PPO"),
    "A2C, ours-coordconv / sb3": ("train_a2c", "ours-coordconv", "A2C"),
    "A2C in bf16": ("train_a2c", "ours-coordconv-bf16", "A2C"),
    "environments, native / sb3-subproc": ("env", "native", ""),
    "network, coordconv / cnn": ("layer", "coordconv", "forward+backward, batch 256, channels_last"),
}
"""Columns of the overview: file, peer and how the case begins."""


def machine_name(machine: dict[str, str]) -> str:
    """
    Return a machine's name as a folder name, e.g. ``amd-epyc-bf16-2-cores`` where there are bfloat16 units.

    :param machine: From :func:`rl_coordconv.machine.versions`
    """
    bf16 = "bf16" if "bf16" in machine.get("cpu_flags", "") else ""
    chip = machine.get("gpu") or f"{machine['cpu']} {bf16} {machine['cores']} cores"
    plain = re.sub(r"\((R|TM)\)|\bCPU\b|\b(64-Core )?Processor\b|@.*?GHz", " ", chip, flags=re.IGNORECASE)
    return "-".join(re.findall(r"[a-z0-9.]+", plain.lower()))


def write_result(output: Path, file: str, result: dict[str, Any]) -> Path:
    """
    Write a result, with what its file has of peers not measured again; make page and overview anew.

    :param output: The folder that holds a folder per machine
    :param file: One of ``FILES``
    :param result: What was measured, where and how
    :return: The machine's page
    :raises UserError: The folder cannot be made
    """
    folder = output / machine_name(result["machine"])
    make_folder(folder, "output folder")
    if before := read_results(folder).get(file):
        result = with_earlier(result, before)
    write_text(folder / f"{file}.json", json.dumps(result, indent=1) + "\n")
    write_pages(output)
    return folder / "README.md"


def write_pages(output: Path) -> None:
    """
    Make the page and charts of every machine and the overview anew from JSON.

    :param output: The folder that holds a folder per machine
    :raises UserError: There are no results, or a file of them is damaged
    """
    machines = read_machines(output)
    if not machines:
        raise UserError(f"'{output}' holds no results: measure first, e.g. with benchmark.py env")
    for name, results in machines.items():
        for file, result in results.items():
            plot(result, output / name / f"{file}.png")
        write_text(output / name / "README.md", page(results))
    write_text(output / "README.md", overview(machines))


def read_machines(output: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Return the results of every machine that has any, by its name.

    :raises UserError: A file is damaged
    """
    machines = {folder.name: read_results(folder) for folder in sorted(output.glob("*/"))}
    return {name: results for name, results in machines.items() if results}


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """
    Return a machine's results by file name.

    :raises UserError: A file is not what :func:`write_result` writes
    """
    results = {}
    for file in FILES:
        if (path := folder / f"{file}.json").is_file():
            try:
                results[file] = json.loads(path.read_text("utf-8"))
                page({file: results[file]})  # takes all that is in it
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                raise UserError(f"'{path}' is damaged ({error!r}): restore or remove it") from None
    return results


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return the page of one machine."""
    measured = [session for result in results.values() for session in sessions(result)]
    machine = measured[0]["machine"]
    common = {
        key: value
        for key, value in machine.items()
        if all(session["machine"].get(key) == value for session in measured)
    }
    lines = [f"# {machine.get('gpu') or machine['cpu']}", ""]
    lines += ["Made from the JSON files beside it by `python scripts/benchmark.py page`.", ""]
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in common.items())]
    for file, result in results.items():
        benchmark = BENCHMARKS[result["what"]]
        lines += [
            "",
            f"## {benchmark.title}" + (f", {result['algo'].upper()}" if result.get("algo") else ""),
            "",
            *(line for session in sessions(result) for line in (how_measured(session, common), "")),
            markdown(result),
            "",
            f"![{benchmark.title}: speed of each peer]({file}.png)",
        ]
    return "\n".join(lines) + "\n"


def how_measured(session: dict[str, Any], common: dict[str, Any]) -> str:
    """Return how a session was measured, and on what besides what all have in common."""
    n_rounds = max(len(values) for peers in session["rounds"].values() for values in peers.values())
    each = f"of {session['seconds']:g} s or more." if session["seconds"] else "of a fixed piece of work."
    own = "".join(f" {key}: {value}." for key, value in session["machine"].items() if key not in common)
    return f"`{session['command']}`, {session['date']}: {n_rounds} rounds in turns, each {each}{own}"


def overview(machines: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the table of all machines."""
    rows = []
    for name, results in machines.items():
        cells = [headline(results.get(file), peer, case) for file, peer, case in HEADLINES.values()]
        rows.append([f"[{name}]({name}/README.md)", *cells])
    ratios = "Median ratio of speeds [lowest, highest of any round]"
    made = f"{ratios}; made by `python scripts/benchmark.py page`."
    return f"# Benchmarks by machine\n\n{made}\n\n{markdown_table(['machine', *HEADLINES], rows)}\n"


def headline(result: dict[str, Any] | None, peer: str, case: str) -> str:
    """Return a peer's ratio in the first case that begins so, or a dash."""
    rows = summarise_rounds(result) if result else []
    return next((written(row) for row in rows if row.peer == peer and row.case.startswith(case)), "-")
