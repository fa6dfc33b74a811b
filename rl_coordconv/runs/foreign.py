"""Agents that someone else trained with Stable-Baselines3 or RL Zoo."""

from __future__ import annotations

import sys
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rl_coordconv.algorithms.build import from_spaces
from rl_coordconv.config import FRAMES, RunConfig
from rl_coordconv.errors import UserError, choose, last_line
from rl_coordconv.extractors import EXTRACTORS, policy_kwargs
from rl_coordconv.hyperparameters import ALGORITHMS
from rl_coordconv.policies import CoordActorPolicy
from rl_coordconv.runs.checkpoints import load_parameters
from rl_coordconv.runs.export import ALIASES, EXTRACTOR, with_aliases
from rl_coordconv.runs.folder import RunFolder, run_around

SB3_ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    name: getattr(stable_baselines3, name.upper()) for name in ("ppo", "a2c", "dqn")
}
# What playing does not need; in RL Zoo's zips schedules are functions of its own package.
NOT_UNPICKLED: dict[str, Any] = {
    "learning_rate": 0.0,
    "lr_schedule": lambda _: 0.0,
    "clip_range": lambda _: 0.0,
    "clip_range_vf": None,
    "exploration_schedule": lambda _: 0.0,
}
# Options of extractors that leave no trace in shapes: another value would load, and play as another network.
UNTRACED = ("coord_scale", "pool")


def load_tensors(
    path: Path, algo: str, extractor: str, config: RunConfig, said: Container[str]
) -> BaseAlgorithm:
    """
    Put the tensors of a zip into the network that it is said to have; nothing is unpickled.

    The number of actions and the sizes of features and hidden layers are those of the tensors.

    :param path: An SB3 zip
    :param algo: ``ppo``, ``a2c`` or ``dqn``
    :param extractor: Its features extractor, by its name in configs
    :param config: A config with that extractor, its options, and the device
    :param said: Names of the options that are known; the others are assumed, and told
    :raises UserError: It is damaged, or not such an agent
    """
    weights: dict[str, Tensor] = load_parameters(path, "cpu")["policy"]
    try:
        arguments: dict[str, Any] = {"device": config.device}
        if algo == "dqn":
            features = weights["q_net.features_extractor.linear.0.weight"]
            *hidden, n_actions = layer_sizes(weights, "q_net.q_net.")
            net_arch: Any = hidden
            assumed = ["exploration_rate 0"]
            arguments["buffer_size"] = 1
        else:
            pi, vf = (layer_sizes(weights, f"mlp_extractor.{name}_net.") for name in ("policy", "value"))
            hidden, net_arch, assumed = pi + vf, {"pi": pi, "vf": vf}, []
            n_actions = len(weights["action_net.weight"])
            features = weights["features_extractor.linear.0.weight"]
            weights = with_aliases(weights)
        network = policy_kwargs(extractor, features_dim=len(features), **config.extractor_options)
        arguments["policy_kwargs"] = {**network, "net_arch": net_arch}
        if algo != "dqn" and not is_shared(weights):
            arguments["policy_kwargs"]["share_features_extractor"] = False
        actions = spaces.Discrete(n_actions)
        policy = CoordActorPolicy if has_plain_critic(weights) else "CnnPolicy"
        model = from_spaces(SB3_ALGORITHMS[algo], FRAMES, actions, policy=policy, **arguments)
        model.policy.load_state_dict(weights)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        missing = "it has no tensor " if isinstance(error, KeyError) else ""
        detail = missing + last_line(error)
        raise UserError(f"model '{path}' is no {algo} agent with extractor {extractor}: {detail}") from None
    values = EXTRACTORS[extractor].defaults | config.extractor_options
    if hidden:
        assumed.append(f"activation_fn {model.policy.activation_fn.__name__} (SB3's)")  # type: ignore[union-attr]
    assumed += [
        f"--{name.replace('_', '-')} {values[name]}"
        for name in UNTRACED
        if name in values and name not in said
    ]
    if assumed:
        print(f"assumed for '{path}': {', '.join(assumed)} (its tensors do not tell)", file=sys.stderr)
    return model


def is_shared(weights: dict[str, Tensor]) -> bool:
    """Return whether actor and critic have one extractor in the state dict of an SB3 policy."""
    critic = {name: value for name, value in weights.items() if name.startswith(ALIASES[1])}
    return not has_plain_critic(weights) and all(
        torch.equal(value, weights[EXTRACTOR + name.removeprefix(ALIASES[1])])
        for name, value in critic.items()
    )


def has_plain_critic(weights: dict[str, Tensor]) -> bool:
    """Return whether the actor alone sees coordinates in the state dict of an SB3 policy."""
    coords = [name for name in weights if name.startswith(EXTRACTOR) and name.endswith(".coord_weight")]
    return any(ALIASES[1] + name.removeprefix(EXTRACTOR) not in weights for name in coords)


def layer_sizes(weights: dict[str, Tensor], prefix: str) -> list[int]:
    """Return the outputs of the linear layers of an ``nn.Sequential`` in a state dict, in order."""
    layers = {
        int(name.removeprefix(prefix).partition(".")[0]): len(weight)
        for name, weight in weights.items()
        if name.startswith(prefix) and name.endswith(".weight")
    }
    return [layers[index] for index in sorted(layers)]


def unpickle(path: Path, algo: str, config: RunConfig) -> BaseAlgorithm:
    """
    Load a zip as SB3 does: its pickled part can run any code.

    :param path: An SB3 zip from a trusted source
    :param algo: ``ppo``, ``a2c`` or ``dqn``
    :param config: Says the device
    :raises UserError: It does not load
    """
    load_parameters(path, "cpu")
    small: dict[str, Any] = {"buffer_size": 1} if algo == "dqn" else {}
    try:
        return SB3_ALGORITHMS[algo].load(path, device=config.device, custom_objects=NOT_UNPICKLED, **small)
    except Exception as error:
        # Whatever unpickling a stranger's file raises is about that file.
        raise UserError(f"model '{path}' does not load as {algo}: {error}") from None


def check_foreign(path: Path, said: Sequence[str]) -> None:
    """
    Refuse what is said of an agent whose run says it already.

    :param path: Said to be a zip from elsewhere
    :param said: Names of the options that say what it is
    :raises UserError: It is a run folder, or lies in one
    """
    run = RunFolder(path) if path.is_dir() else run_around(path)
    try:
        if run is not None:
            run.load_config()
    except UserError:  # a config.yaml of something else, or none
        return
    if run is not None:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in said)
        raise UserError(f"'{run.config_file}' says what '{path}' is: leave out {options}")


def load_zip(
    path: Path,
    algo: str | None,
    game: str | None,
    extractor: str | None,
    trust: bool,
    device: str = "auto",
    backend: str = "gymnasium",
    **options: Any,
) -> tuple[BaseAlgorithm, RunConfig]:
    """
    Load an SB3 zip that is not inside of a run folder.

    :param path: The zip
    :param algo: ``ppo``, ``a2c`` or ``dqn``
    :param game: The game it plays
    :param extractor: Its features extractor; None with ``trust``
    :param trust: Unpickle it, for classes of its own
    :param device: Where to put the agent
    :param backend: Environments that it was trained in
    :param options: Options of the extractor that it was trained with, e.g. ``coord_scale=1.0``
    :return: The agent, and a config for evaluation
    :raises UserError: It is damaged, not such an agent, or something is not said
    """
    if algo is None or game is None or (extractor is None and not trust):
        raise UserError("a zip from elsewhere needs --algo, --game and --extractor (or --trust: unpickle it)")
    choose("algo", algo, SB3_ALGORITHMS)
    said = [*options, *([] if extractor is None else ["extractor"])]
    if trust and said:
        raise UserError(f"a zip that is unpickled says what it is itself: leave out {', '.join(said)}")
    if algo in ALGORITHMS:  # whose default for coord_scale it has
        options["algo"] = algo
    options |= {"device": device, "backend": backend}
    config = RunConfig(game=game, extractor=extractor or "cnn", **options).validate()
    if trust:
        return unpickle(path, algo, config), config
    model = load_tensors(path, algo, str(extractor), config, options)
    return model, config
