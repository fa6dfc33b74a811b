"""Zips that stock SB3 and RL Zoo write play without unpickling, or with it where they are trusted."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO

from rl_coordconv import (
    CoordActorPolicy,
    CoordConvImpalaCNN,
    CoordConvNatureCNN,
    make_atari_vec_env,
    policy_kwargs,
)
from rl_coordconv.algorithms.build import from_spaces
from rl_coordconv.config import FRAMES as SPACE
from rl_coordconv.config import RunConfig
from rl_coordconv.errors import UserError
from rl_coordconv.runs.evaluation import make_eval_env, play_games
from rl_coordconv.runs.folder import RunFolder
from rl_coordconv.runs.foreign import load_zip

FRAMES = np.random.default_rng(0).integers(0, 256, (16, 4, 84, 84), dtype=np.uint8)
AGENTS = {
    "ppo": (PPO, "cnn", {"features_extractor_kwargs": {"features_dim": 32}}),
    "a2c": (A2C, "coordconv", {"features_extractor_class": CoordConvNatureCNN}),  # SB3 adds two hidden layers
    "dqn": (DQN, "cnn", {"net_arch": [16]}),
    "impala": (PPO, "impala", {"features_extractor_class": CoordConvImpalaCNN, "net_arch": []}),
}


def save(name: str, path: Path, **kwargs) -> tuple[str, str, np.ndarray]:
    """Write a zip; return algorithm, extractor, and what the agent answers to ``FRAMES``."""
    kind, extractor, policy_kwargs = AGENTS[name]
    policy_kwargs = dict(policy_kwargs)
    if name == "impala":
        policy_kwargs["features_extractor_kwargs"] = {"coord_layers": []}
    kwargs |= {"buffer_size": 10} if kind is DQN else {"n_steps": 8}
    env = make_atari_vec_env("Pong", 1)
    model = kind("CnnPolicy", env, policy_kwargs=policy_kwargs, device="cpu", seed=1, **kwargs)
    env.close()
    model.save(path)
    return kind.__name__.lower(), extractor, model.predict(FRAMES, deterministic=True)[0]


@pytest.fixture
def refuse_pickle(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "loads"), (pickle, "load"), (cloudpickle, "loads"), (cloudpickle, "load")):
        monkeypatch.setattr(module, name, refuse)


@pytest.mark.parametrize("name", AGENTS)
def test_plays_from_its_tensors_alone(name, tmp_path, refuse_pickle):
    algo, extractor, expected = save(name, tmp_path / "agent.zip")
    model, config = load_zip(tmp_path / "agent.zip", algo, "pong", extractor, False, "cpu")
    assert config.game == "Pong"
    assert (model.predict(FRAMES, deterministic=True)[0] == expected).all()


@pytest.mark.parametrize(("policy", "extractor"), [("CnnPolicy", "cnn"), (CoordActorPolicy, "coordconv")])
def test_an_extractor_for_each_head_plays_as_it_did(policy, extractor, tmp_path):
    network = {**policy_kwargs(extractor), "share_features_extractor": False}
    kwargs = {"policy": policy, "policy_kwargs": network, "device": "cpu", "seed": 1}
    model = from_spaces(PPO, SPACE, spaces.Discrete(6), **kwargs)
    model.save(tmp_path / "agent.zip")
    found = load_zip(tmp_path / "agent.zip", "ppo", "Pong", extractor, False, "cpu")[0]
    with torch.no_grad():
        for ours, expected in zip(
            *(m.policy(torch.as_tensor(FRAMES), True) for m in (found, model)), strict=True
        ):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize(("algo", "extractor"), [("ppo", "impala"), ("ppo", "coordconv"), ("dqn", "cnn")])
def test_another_network_is_refused(algo, extractor, tmp_path):
    save("ppo", tmp_path / "agent.zip")
    with pytest.raises(UserError, match=f"is no {algo} agent with extractor {extractor}"):
        load_zip(tmp_path / "agent.zip", algo, "pong", extractor, False, "cpu")


@pytest.mark.parametrize(
    ("extractor", "options", "default"),
    [
        ("coordconv", {"coord_scale": 1.0, "coord_init": "concat"}, "--coord-scale window"),
        ("nature-pool", {"pool": "average"}, "--pool max"),
    ],
)
def test_options_that_shapes_do_not_tell_are_given_or_said(extractor, options, default, tmp_path, capsys):
    network = policy_kwargs(extractor, **options)
    model = from_spaces(PPO, SPACE, spaces.Discrete(4), policy_kwargs=network, device="cpu", seed=1)
    model.save(tmp_path / "agent.zip")
    say = (tmp_path / "agent.zip", "ppo", "Breakout", extractor, False, "cpu")
    options.pop("coord_init", None)
    frames = torch.as_tensor(FRAMES)
    with torch.no_grad():
        expected = model.policy.predict_values(frames)
        assert torch.equal(load_zip(*say, **options)[0].policy.predict_values(frames), expected)
        assert not capsys.readouterr().err
        assert not torch.equal(load_zip(*say)[0].policy.predict_values(frames), expected)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{default} (its tensors do not tell)" in error


def test_what_no_tensor_tells_of_hidden_layers_and_exploration_is_said(tmp_path, capsys):
    for name, says in (
        ("a2c", "assumed for '{}': activation_fn Tanh (SB3's), --coord-scale root (its"),
        ("dqn", "assumed for '{}': exploration_rate 0, activation_fn ReLU (SB3's) (its"),
    ):
        path = tmp_path / f"{name}.zip"
        algo, extractor, _ = save(name, path)
        load_zip(path, algo, "pong", extractor, False, "cpu")
        assert capsys.readouterr().err.startswith(says.format(path))


@pytest.mark.parametrize(("backend", "ends"), [("gymnasium", True), ("native", False)])
def test_a_lost_life_ends_an_episode_where_the_agent_was_trained_so_and_scores_are_of_whole_games(
    backend, ends
):
    """SB3's wrappers press FIRE after a lost life only then, and their agents have never learned to."""
    config = RunConfig(game="Breakout", extractor="cnn", device="cpu", backend=backend).validate()
    with contextlib.closing(make_eval_env(config, 1)) as env:
        env.seed(1)
        env.reset()
        dones, game_over = [], False
        while not game_over:
            _, _, done, [info] = env.step(np.array([len(dones) % 4]))
            dones.append(bool(done[0]))
            game_over = "episode" in info
        assert sum(dones) == (5 if ends else 1)


def test_an_agent_of_stable_baselines3_is_played_in_its_own_wrappers(tmp_path):
    save("ppo", tmp_path / "agent.zip")
    _, config = load_zip(tmp_path / "agent.zip", "ppo", "pong", "cnn", False, "cpu")
    assert config.backend == "gymnasium"


def test_an_agent_that_explores_plays_the_same_games_again_and_leaves_random_states(tmp_path):
    save("dqn", tmp_path / "agent.zip")
    model, config = load_zip(tmp_path / "agent.zip", "dqn", "pong", None, True, "cpu")
    model.exploration_rate = 0.5
    with contextlib.closing(make_eval_env(dataclasses.replace(config, max_frames=400), 2)) as env:
        games = []
        for number in range(2):
            seen = []
            np.random.seed(number)
            model.action_space.seed(number)
            before = random_states(model)
            play_games(
                model, env, 2, 7, callback=lambda now, _, seen=seen: seen.append(now["actions"].copy())
            )
            assert random_states(model) == before
            games.append(np.array(seen))
    assert len(np.unique(games[0])) > 1
    assert np.array_equal(*games)


def random_states(model):
    return str(np.random.get_state()), model.action_space.np_random.bit_generator.state


def test_a_trusted_zip_that_sees_something_else_is_one_line(script, tmp_path, capsys):
    space = spaces.Box(0, 255, (1, 84, 84), np.uint8)
    from_spaces(PPO, space, spaces.Discrete(6), device="cpu").save(tmp_path / "agent.zip")
    say = ("--algo", "ppo", "--game", "pong", "--trust", "--games", 1, "--device", "cpu")
    assert script("evaluate", "agent.zip", *say) == 2
    error = capsys.readouterr().err
    assert error == "error: the agent sees observations of shape (1, 84, 84), the game has (4, 84, 84)\n"


def test_script_plays_a_zip_and_refuses_what_does_not_fit(script, tmp_path, capsys):
    save("ppo", tmp_path / "agent.zip")
    say = ("agent.zip", "--games", 1, "--n-envs", 1, "--device", "cpu")
    for args, says in (
        (("--algo", "ppo", "--game", "pong"), "needs --algo, --game and --extractor"),
        (("--algo", "pppo", "--game", "pong", "--extractor", "cnn"), "did you mean 'ppo'?"),
        (("--algo", "ppo", "--game", "pong", "--extractor", "ccn"), "did you mean 'cnn'?"),
        (("--algo", "ppo", "--game", "breakout", "--extractor", "cnn"), "the agent chooses from Discrete(6)"),
        (("--algo", "ppo", "--game", "pong", "--extractor", "cnn", "--pool", "max"), "has no option 'pool'"),
        (("--algo", "ppo", "--game", "pong", "--trust", "--coord-scale", 1), "leave out coord_scale"),
        (("--algo", "ppo", "--game", "pong", "--trust", "--extractor", "cnn"), "leave out extractor"),
        (("--coord-scale", 1), "needs --algo, --game and --extractor"),
        (
            ("--algo", "dqn", "--game", "pong", "--extractor", "cnn"),
            "it has no tensor 'q_net.features_extractor",
        ),
        ((), "scripts/evaluate.py takes it with --algo"),
    ):
        assert script("evaluate", *say, *args) == 2
        assert says in capsys.readouterr().err
    for path, says in ((tmp_path, "is not a file"), ("no.zip", "does not exist")):
        assert script("evaluate", path, "--algo", "ppo", "--game", "pong", "--extractor", "cnn") == 2
        assert f"model '{path}' {says}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["agent.zip"]


def test_what_a_run_says_of_itself_is_not_said_again(script, run_of_pong, capsys):
    model = run_of_pong / "final_model.zip"
    said = (("--game", "pong"), ("--with-r", "false"), ("--coord-layers", "[]"))
    for path, option in (*((run_of_pong, words) for words in said), (model, ("--coord-scale", 1))):
        assert script("evaluate", path, *option) == 2
        assert f"config.yaml' says what '{path}' is: leave out {option[0]}" in capsys.readouterr().err


@pytest.fixture
def run_of_pong(tmp_path):
    config = RunConfig("Pong", device="cpu", output=str(tmp_path)).validate()
    RunFolder(config.folder).create(config)
    RunFolder(config.folder).final_model.touch()
    return config.folder


def test_script_hands_on_what_shapes_do_not_tell(script, monkeypatch):
    given = []

    def load(*args, **options):
        given.append(options)
        raise UserError("enough")

    monkeypatch.setattr("rl_coordconv.runs.foreign.load_zip", load)
    say = ("--algo", "ppo", "--game", "pong", "--extractor", "coordconv-impala-pool")
    options = [
        "--coord-layers",
        "0",
        "1",
        "--with-r",
        "true",
        "--coord-scale",
        "0.5",
        "--pool",
        "max",
        "--width",
        "2",
    ]
    assert script("evaluate", "agent.zip", *say, *options) == 2
    assert given == [{"coord_layers": [0, 1], "with_r": True, "coord_scale": 0.5, "pool": "max", "width": 2}]


def test_positions_of_an_agent_without_action_probabilities_are_refused_before_a_game(
    script, tmp_path, capsys
):
    save("dqn", tmp_path / "agent.zip")
    say = ("--algo", "dqn", "--game", "pong", "--extractor", "cnn", "--games", 1)
    assert script("evaluate", "agent.zip", *say, "--positions", "a.png") == 2
    captured = capsys.readouterr()
    assert "positions needs an agent with actor and critic" in captured.err
    assert not captured.out
    assert [path.name for path in tmp_path.iterdir()] == ["agent.zip"]


def rl_zoo_schedule(tmp_path: Path) -> None:
    """Write a zip whose schedules are functions of a package that is not installed."""
    module = types.ModuleType("rl_zoo3_missing.utils")
    exec("def schedule(progress):\n    return 1e-4 * progress", vars(module))
    sys.modules["rl_zoo3_missing"] = types.ModuleType("rl_zoo3_missing")
    sys.modules[module.__name__] = module
    module.schedule.__module__ = module.__name__
    try:
        save("ppo", tmp_path / "zoo.zip", learning_rate=module.schedule, clip_range=module.schedule)
    finally:
        del sys.modules["rl_zoo3_missing"], sys.modules[module.__name__]


def test_a_zoo_zip_loads_where_its_package_is_missing(tmp_path):
    rl_zoo_schedule(tmp_path)
    with zipfile.ZipFile(tmp_path / "zoo.zip") as archive:
        pickled = json.loads(archive.read("data"))["learning_rate"][":serialized:"]
    with pytest.raises(ModuleNotFoundError, match="rl_zoo3_missing"):
        pickle.loads(base64.b64decode(pickled))
    trusted, _ = load_zip(tmp_path / "zoo.zip", "ppo", "pong", None, True, "cpu")
    plain, _ = load_zip(tmp_path / "zoo.zip", "ppo", "pong", "cnn", False, "cpu")
    expected, found = (model.predict(FRAMES, deterministic=True)[0] for model in (trusted, plain))
    assert (expected == found).all()
    for name, weight in trusted.policy.state_dict().items():
        assert torch.equal(weight, plain.policy.state_dict()[name])
