"""The trained agents of the repository load, play better than chance, and are what the table says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from rl_coordconv import load_agent
from rl_coordconv.runs.agent import find_run, load_run
from rl_coordconv.runs.evaluation import make_eval_env, play_games

AGENTS = Path(__file__).parents[1] / "agents"
NAMES = sorted(path.parent.name for path in AGENTS.glob("*/model.safetensors"))


def test_there_are_agents() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_table_has_the_measured_score_and_the_folder_is_light(name: str) -> None:
    metrics = json.loads((AGENTS / name / "metrics.json").read_text())
    [row] = [line for line in (AGENTS / "README.md").read_text().splitlines() if f"[{name}]({name}/)" in line]
    assert f"{metrics['mean']:.1f} ± {metrics['std']:.1f}" in row
    assert metrics["games"] >= 100
    assert (AGENTS / name / "play.gif").stat().st_size < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_hub_reads_the_card(name: str) -> None:
    metrics = json.loads((AGENTS / name / "metrics.json").read_text())
    card = huggingface_hub.ModelCard.load(AGENTS / name / "README.md")
    [result] = card.data.eval_results
    assert result.metric_value == f"{metrics['mean']:.2f} +/- {metrics['std']:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_agent_plays_better_than_random(name: str) -> None:
    model, config = load_run(*find_run(AGENTS / name), "cpu")
    env = make_eval_env(dataclasses.replace(config, max_frames=1_000), 8)
    try:
        returns, _ = play_games(model, env, 8, seed=0)
        env.seed(0)
        env.reset()
        chance: list[float] = []
        rng = np.random.default_rng(0)
        while len(chance) < 8:
            _, _, _, infos = env.step(rng.integers(model.action_space.n, size=env.num_envs))
            chance += [info["episode"]["r"] for info in infos if "episode" in info]
    finally:
        env.close()
    assert np.mean(returns) > np.mean(chance) + 2 * np.std(chance) / 8**0.5
    same = load_agent(AGENTS / name, "cpu")
    frames = np.random.default_rng(0).integers(0, 256, (4, 4, 84, 84), dtype=np.uint8)
    assert np.array_equal(
        same.predict(frames, deterministic=True)[0], model.predict(frames, deterministic=True)[0]
    )
