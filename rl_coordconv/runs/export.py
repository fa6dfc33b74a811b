"""
Agents to hand on: tensors and text, nothing in them that can run code.

On disk, in the folder::

    README.md           model card: game, arm, steps, scores, command, versions; metadata for the Hub
    model.safetensors   the policy's weights
    config.yaml         how to rebuild the policy
    metrics.json        scores of the run's evaluation of this agent
    curve.csv, .png     how it learned: mean return in each of 100 stretches of training
    policy.onnx         on request: frames to action logits and value
    play.gif            on request: a game
    SHA256SUMS          hashes of all of these, checked before anything is read
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from rl_coordconv.config import RunConfig
from rl_coordconv.envs.contract import N_STACK, SCREEN_SIZE
from rl_coordconv.errors import UserError
from rl_coordconv.files import atomic_folder, write_json
from rl_coordconv.runs.card import make_card
from rl_coordconv.runs.checkpoints import NAME
from rl_coordconv.runs.evaluation import best_of, summarise_games, with_agent
from rl_coordconv.runs.folder import RunFolder
from rl_coordconv.runs.video import write_video

MODEL = "model.safetensors"
ONNX = "policy.onnx"
GIF = "play.gif"
CURVE = "curve"
HASHES = "SHA256SUMS"
EXTRACTOR = "features_extractor."
ALIASES = ("pi_features_extractor.", "vf_features_extractor.")


class PolicyOutputs(nn.Module):
    """
    Frames to action logits and value, as one graph.

    :param policy: SB3's actor-critic policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return logits ``(batch, actions)`` and values ``(batch, 1)``.

        :param frames: ``(batch, 4, 84, 84) uint8``
        """
        policy, images = self.policy, frames.float() / 255
        for_actor = for_critic = policy.pi_features_extractor(images)
        if not policy.share_features_extractor:
            for_critic = policy.vf_features_extractor(images)
        logits = policy.action_net(policy.mlp_extractor.forward_actor(for_actor))
        return logits, policy.value_net(policy.mlp_extractor.forward_critic(for_critic))


def export_agent(
    policy: ActorCriticPolicy,
    config: RunConfig,
    run: RunFolder,
    model_file: Path,
    folder: Path,
    onnx: bool = False,
    film: list[np.ndarray] | None = None,
) -> None:
    """
    Write a folder to hand on; it is there complete or not at all.

    :param policy: The agent's policy, on the CPU
    :param config: Its run's config
    :param run: Its run's folder
    :param model_file: The zip it came from, inside of that
    :param folder: Where to; must not exist
    :param onnx: Also write ``policy.onnx``
    :param film: A game, from :func:`~.video.film_game`, to write as ``play.gif``
    :raises UserError: The folder exists or cannot be made
    """
    from rl_coordconv.runs.curves import write_curve  # matplotlib comes with an extra; loading needs none

    check_new(folder)
    metrics = _metrics(run, model_file)
    with atomic_folder(folder, "folder") as draft:
        save_policy(policy, draft / MODEL)
        shared = dataclasses.replace(config, device="auto", output="runs", num_threads=0)
        (draft / "config.yaml").write_text(shared.to_yaml(), encoding="utf-8")
        write_json(draft / "metrics.json", metrics)
        pictures = {}
        if film:
            write_video(film, draft / GIF)
            pictures["A game of the agent"] = GIF
        if write_curve(run, draft / CURVE, f"{config.game}: {config.algo.upper()} with {config.arm}"):
            pictures["How it learned"] = f"{CURVE}.png"
        card = make_card(config, metrics, run.read_command(), run.read_versions(), folder.name, pictures)
        (draft / "README.md").write_text(card, encoding="utf-8")
        if onnx:
            _export_onnx(policy, draft / ONNX)
        names = sorted(path.name for path in draft.iterdir())
        (draft / HASHES).write_text("".join(f"{_sha256(draft / name)}  {name}\n" for name in names))


def check_new(folder: Path) -> None:
    """
    Refuse a folder that would be overwritten.

    :raises UserError: It exists
    """
    if folder.exists():
        raise UserError(f"'{folder}' exists already: choose another folder")


def save_policy(policy: ActorCriticPolicy, path: Path) -> None:
    """Write a policy's weights as safetensors, each extractor once, whatever its names in SB3."""
    aliases = ALIASES if policy.share_features_extractor else ALIASES[:1]
    weights = {name: value for name, value in policy.state_dict().items() if not name.startswith(aliases)}
    # save_file() makes a file that only its owner may read.
    path.write_bytes(save({name: value.contiguous() for name, value in weights.items()}))


def with_aliases(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the extractor thrice, as in SB3's: alone, of the actor, of the critic."""
    extractor = {name: value for name, value in weights.items() if name.startswith(EXTRACTOR)}
    for alias in ALIASES:
        if not any(name.startswith(alias) for name in weights):  # else the critic has one of its own
            weights = weights | {
                alias + name.removeprefix(EXTRACTOR): value for name, value in extractor.items()
            }
    return weights


def check_hashes(folder: Path) -> None:
    """
    Make sure that an exported folder is as it was written.

    :param folder: From :func:`export_agent`
    :raises UserError: A file is missing, changed, or not in the list
    """
    file = folder / HASHES
    if not file.is_file():
        raise UserError(f"'{folder}' holds {MODEL} but no {HASHES}: it was not made by scripts/export.py")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    hashes = {name: sha for sha, _, name in (line.partition("  ") for line in lines)}
    for name in (MODEL, "config.yaml"):
        if name not in hashes:
            raise UserError(f"'{file}' does not list {name}: the folder is damaged")
    for name, sha in hashes.items():
        path = folder / Path(name).name
        if not path.is_file() or _sha256(path) != sha:
            raise UserError(f"'{path}' is missing or not what was exported: its hash differs from {HASHES}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _metrics(run: RunFolder, model_file: Path) -> dict[str, Any]:
    """
    Return the evaluation of the agent in a zip; of a checkpoint that had none the step alone.

    Of a zip that the run did not write nothing is known.
    """
    records = run.read_evaluations()
    if checkpoint := NAME.fullmatch(model_file.name):
        step = int(checkpoint[1])
        records = [record for record in records if record["step"] == step]
        if not records:
            return {"step": step}
    if not records or not (checkpoint or model_file.name in (run.best_model.name, run.final_model.name)):
        return {}
    is_best = model_file.name == run.best_model.name
    record = best_of(records) if is_best else records[-1]
    chosen = {"best_of": len(with_agent(records))} if is_best else {}
    games = {"step": record["step"], "games": len(record["returns"])}
    return {**games, **summarise_games(record["returns"]), **chosen}


def _export_onnx(policy: ActorCriticPolicy, path: Path) -> None:
    frames = torch.zeros(2, N_STACK, SCREEN_SIZE, SCREEN_SIZE, dtype=torch.uint8)
    torch.onnx.export(
        PolicyOutputs(policy).eval(),
        (frames,),
        str(path),
        input_names=["frames"],
        output_names=["logits", "value"],
        dynamic_shapes={"frames": {0: torch.export.Dim("batch", min=1)}},
        dynamo=True,
        external_data=False,
    )
