"""Positional biases as pictures, and what a shifted screen does to an agent."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.envs import FakeImageEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rl_coordconv import UserError, policy_kwargs
from rl_coordconv.config import RunConfig
from rl_coordconv.layers import CoordConv2d
from rl_coordconv.runs import shifts
from rl_coordconv.runs.agent import find_run, load_run
from rl_coordconv.runs.bias_maps import bias_maps, bias_picture
from rl_coordconv.runs.shifts import shift_effects, shift_frames


class Frames(FakeImageEnv):
    """Random frames of Atari's shape, channels first."""

    def __init__(self) -> None:
        super().__init__(screen_height=84, screen_width=84, n_channels=4)
        self.observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)


def make_model(extractor: str, **options: Any) -> PPO:
    kwargs = policy_kwargs(extractor, features_dim=16, **options)
    return PPO("CnnPolicy", Frames(), device="cpu", n_steps=16, seed=0, policy_kwargs=kwargs)


def test_maps_are_what_each_layer_adds_at_its_own_size() -> None:
    model = make_model("coordconv", coord_layers=[0, 2], coord_init="concat")
    maps = bias_maps(model.policy, (4, 84, 84))
    assert {name: tuple(values.shape) for name, values in maps.items()} == {
        "cnn.0": (32, 20, 20),
        "cnn.4": (64, 7, 7),
    }
    layer = model.policy.features_extractor.cnn[0]
    assert isinstance(layer, CoordConv2d)
    with torch.no_grad():
        empty = layer(torch.zeros(1, 4, 84, 84))[0] - layer.bias[:, None, None]
    torch.testing.assert_close(maps["cnn.0"], empty, rtol=1e-5, atol=1e-6)
    assert bias_maps(make_model("cnn").policy, (4, 84, 84)) == {}


def test_maps_leave_the_random_state_as_it_was() -> None:
    """Else a run with coordinates would depend on how often it is evaluated."""
    policy = make_model("coordconv").policy
    before = torch.get_rng_state()
    bias_maps(policy, (4, 84, 84))
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


def test_picture_shows_sign_and_size_on_one_scale() -> None:
    maps = torch.zeros(3, 7, 7)
    maps[0], maps[1] = 2.0, -1.0
    picture = bias_picture(maps)
    cell = picture.shape[0] // 2
    assert picture.shape == (2 * cell, 2 * cell, 3)
    centres = [
        picture[cell // 2, cell // 2],
        picture[cell // 2, cell + cell // 2],
        picture[cell + cell // 2, cell // 2],
    ]
    assert [tuple(colour) for colour in centres] == [(255, 0, 0), (127, 127, 255), (255, 255, 255)]


def test_tensorboard_shows_the_maps_at_every_evaluation(script: Any, tmp_path: Any) -> None:
    args = ["--game", "Freeway", "--n-envs", 2, "--ppo.n_steps", 16, "--ppo.batch_size", 32]
    args += ["--total-timesteps", 64, "--eval-freq", 32, "--eval-episodes", 1, "--max-frames", 400]
    assert script("train", *args, "--features-dim", 8) == 0
    run = tmp_path / "runs/ppo/Freeway/coordconv/seed1"
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    shown = events.Images("coordconv/cnn.0/positional_bias")
    assert [event.step for event in shown] == [32, 64]
    picture = np.asarray(Image.open(io.BytesIO(shown[-1].encoded_image_string)))
    agent = load_run(*find_run(run / "final_model.zip"), "cpu")[0]
    # As in training: sums in another order may round a colour the other way.
    agent.policy.to(memory_format=torch.channels_last)
    [maps] = bias_maps(agent.policy, (4, 84, 84)).values()
    assert maps.abs().max() > 0
    assert np.array_equal(picture, bias_picture(maps))


def test_a_shift_moves_everything_and_brings_in_black() -> None:
    frames = np.arange(1, 13, dtype=np.uint8).reshape(1, 1, 3, 4)
    assert shift_frames(frames, 1, 0)[0, 0].tolist() == [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11]]
    assert shift_frames(frames, -2, 1)[0, 0].tolist() == [[0, 0, 0, 0], [3, 4, 0, 0], [7, 8, 0, 0]]
    assert np.array_equal(shift_frames(frames, 0, 0), frames)


def test_effects_are_zero_without_a_shift_and_small_where_position_is_thrown_away() -> None:
    # A spot moved by the stride of the whole network is seen by as many windows.
    frames = np.zeros((8, 4, 84, 84), dtype=np.uint8)
    frames[:, :, 30:42, 30:42] = np.arange(30, 255, 30)[:8, None, None, None]
    effects = {}
    for name, options in {"nature-pool": {}, "coordconv-nature-pool": {"coord_init": "concat"}}.items():
        effects[name] = shift_effects(make_model(name, **options), frames, (0, 8))
        assert effects[name].kl.shape == (2, 2)
        assert effects[name].kl[0, 0] == effects[name].value[0, 0] == 0
        assert (effects[name].kl >= -1e-9).all()
    # float32 sums of the same numbers in another order.
    assert effects["nature-pool"].value.max() < 1e-3
    assert effects["coordconv-nature-pool"].value.max() > 100 * effects["nature-pool"].value.max()


def test_frames_are_taken_evenly_however_many_games_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven games of 100 steps, one of 1,000."""
    lengths = [100] * 7 + [1000]

    def play(model: Any, env: Any, n_games: int, seed: int, callback: Any) -> None:
        for step in range(1, 1001):
            for i in range(8):
                if step <= lengths[i]:
                    callback({"i": i, "observations": np.full((8, 1), step)}, {})

    monkeypatch.setattr(shifts, "play_games", play)
    frames = shifts.collect_frames(make_model("cnn"), RunConfig("Pong").validate(), seed=1)
    taken = frames[::8, 0]
    assert 8 <= len(taken) <= 16
    assert len({*np.diff(taken)}) == 1


def test_agents_without_action_probabilities_are_refused() -> None:
    model = DQN("CnnPolicy", Frames(), device="cpu", buffer_size=10)
    with pytest.raises(UserError, match="positions needs an agent with actor and critic"):
        shift_effects(model, np.zeros((2, 4, 84, 84), dtype=np.uint8))
