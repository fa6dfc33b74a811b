"""What the documentation tells people to type works, and the site builds without a warning."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
COMMAND = re.compile(r"python scripts/(\w+)\.py((?: [^\n`#|]*)?)")
PLACEHOLDERS = ("{", "…")


def commands() -> list[tuple[str, str]]:
    """Script and arguments of every command, continued lines joined."""
    text = "\n".join(page.read_text(encoding="utf-8").replace("\\\n", " ") for page in PAGES)
    found = {(name, args.strip()) for name, args in COMMAND.findall(text)}
    return sorted(pair for pair in found if not any(mark in pair[1] for mark in PLACEHOLDERS))


def snippets() -> list[str]:
    text = (ROOT / "docs" / "sb3.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return [block.replace("learn(10_000)", "learn(64)").replace("n_envs=8", "n_envs=2") for block in blocks]


def test_every_option_in_a_command_is_one_that_its_script_has(script, capsys) -> None:
    options: dict[str, set[str]] = {}
    for name, args in commands():
        words = shlex.split(args)
        tool = f"{name} {words[0]}" if name == "tasks" and words else name
        if tool not in options:
            assert script(name, *([words[0]] if name == "tasks" and words else []), "--help") == 0
            options[tool] = set(re.findall(r"--[\w.-]+", capsys.readouterr().out.replace("_", "-")))
        used = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
        assert used <= options[tool], f"{name} {args}"


def test_configs_and_files_that_pages_name_are_there() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = re.findall(r"\b(?:configs|tests|rl_coordconv|scripts)/[\w/.-]+\.(?:yaml|py|csv)\b", text)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_no_page_installs_from_pypi_what_is_not_there_yet() -> None:
    pages = [*PAGES, ROOT / "README.md"]
    assert [
        page.name for page in pages if "pip install rl-coordconv" in page.read_text(encoding="utf-8")
    ] == []


def test_tests_that_the_page_on_reliability_names_are_there() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", text)
    assert named
    for path, test in named:
        sought = f"def {test}(" if test else ""
        assert sought in (ROOT / "tests" / path).read_text(encoding="utf-8"), (path, test)


@pytest.mark.slow
@pytest.mark.parametrize("snippet", snippets(), ids=lambda text: re.findall(r"import (\w+)", text)[-1])
def test_snippet_for_own_code_runs(snippet, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "docs/sb3.md", "exec"), {"__name__": "snippet"})


@pytest.mark.slow
def test_notebook_runs_from_plug_in_to_curves(tmp_path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "it is kept without outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = json.dumps([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])
    assert "of the weight norm is on coordinates" in outputs
    assert "image/png" in outputs
    assert {path.name for path in (tmp_path / "runs" / "quickstart").iterdir()} == {"cnn_1", "coordconv_1"}


@pytest.mark.slow
def test_site_builds_without_a_warning_and_can_be_searched(tmp_path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    index = json.loads((tmp_path / "search" / "search_index.json").read_text(encoding="utf-8"))
    sections = {entry["location"]: entry["text"] for entry in index["docs"]}
    assert "coord_init" in sections["api.html#rl_coordconv.CoordConv2d"], (
        "the reference is made from docstrings"
    )
    assert [place for place, text in sections.items() if re.search(r":(class|func|data|meth):", text)] == []
