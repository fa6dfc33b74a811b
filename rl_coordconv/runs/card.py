"""The card of an agent: where it comes from and what it scores, for readers and for the Hugging Face Hub."""

from __future__ import annotations

from typing import Any

import yaml

from rl_coordconv.config import RunConfig
from rl_coordconv.envs.contract import N_STACK, SCREEN_SIZE
from rl_coordconv.runs.published import RL_ZOO

CARD = """---
{metadata}---

# {game}: {algo} with {arm}

A Stable-Baselines3 agent trained with rl-coordconv for the
Atari game {game}.

| | |
|---|---|
| game | {game} |
| arm | {arm} (extractor `{extractor}`) |
| algorithm | {algo} |
| steps | {steps} |
| seed | {seed} |
| score | {score} |
{published}
Raw return of full games, actions sampled, as DeepMind's preprocessing has it; one training run with one seed
says little about the method.
{pictures}
## Use

```python
from rl_coordconv import load_agent

model = load_agent("{folder}")  # the path of this folder; no unpickling; shapes and hashes are checked
action, _ = model.predict(frames)  # frames: (batch, {stack}, {size}, {size}) uint8
```

or, in a clone of rl-coordconv, `python scripts/evaluate.py PATH_OF_THIS_FOLDER --gif agent.gif`.

## Where it comes from

Trained by

```
{command}
```

with {versions}.
"""


def make_card(
    config: RunConfig,
    metrics: dict[str, Any],
    command: str,
    versions: dict[str, Any],
    folder: str,
    pictures: dict[str, str],
) -> str:
    """
    Return the card.

    :param config: The run's config
    :param metrics: Of the run's evaluation of this agent: step, games, mean, std, iqm, min, max, and of
        how many it is the best; or the step alone; or empty
    :param command: What the agent was trained by
    :param versions: With which packages and machine
    :param folder: Name of the agent's folder
    :param pictures: Files in the folder, by what they show
    :return: Markdown with the metadata that the Hub reads at its head
    """
    score = "not evaluated"
    if "mean" in metrics:
        score = "{mean:.1f} ± {std:.1f} over {games} games (IQM {iqm:.1f}, min {min:.0f}, max {max:.0f})"
        if is_chosen(metrics):
            score += ", the best of {best_of} evaluations, chosen by this score: another would be lower"
        score = score.format(**metrics)
    known = RL_ZOO.get(config.algo, {}).get(config.game)
    return CARD.format(
        metadata=yaml.safe_dump(hub_metadata(config, metrics), sort_keys=False),
        game=config.game,
        arm=config.arm,
        extractor=config.extractor,
        algo=config.algo.upper(),
        steps=f"{metrics['step']:,} (4 frames each)" if "step" in metrics else "not known",
        seed=config.seed,
        score=score,
        published=f"| RL Zoo's {config.algo.upper()} after 10,000,000 steps | {known:g} |\n" if known else "",
        folder=folder,
        pictures="".join(f"\n![{text}]({name})\n" for text, name in pictures.items()),
        stack=N_STACK,
        size=SCREEN_SIZE,
        command=command,
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )


def is_chosen(metrics: dict[str, Any]) -> bool:
    """Whether an agent was chosen by the score that it has, which flatters it."""
    return int(metrics.get("best_of", 1)) > 1


def hub_metadata(config: RunConfig, metrics: dict[str, Any]) -> dict[str, Any]:
    """
    Return what the Hugging Face Hub reads of a card: library and tags; ``model-index`` if there is a score by
    which the agent was not chosen.

    :param config: The run's config
    :param metrics: As for :func:`make_card`
    """
    game = f"{config.game}NoFrameskip-v4"
    metadata: dict[str, Any] = {
        "library_name": "stable-baselines3",
        "license": "mit",
        "tags": [game, "deep-reinforcement-learning", "reinforcement-learning", "atari", "coordconv"],
    }
    if "mean" in metrics and not is_chosen(metrics):
        reward = {
            "type": "mean_reward",
            "name": "mean_reward",
            "value": f"{metrics['mean']:.2f} +/- {metrics['std']:.2f}",
            "verified": False,
        }
        result = {
            "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
            "dataset": {"name": game, "type": game},
            "metrics": [reward],
        }
        metadata["model-index"] = [{"name": config.algo.upper(), "results": [result]}]
    return metadata
