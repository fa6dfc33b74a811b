"""The contract of :mod:`rl_coordconv.envs.make`, the same for every backend."""

import warnings
from typing import Any

import numpy as np
from playing import Maker, assert_same, differs, play
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor


def test_shapes_and_types_are_those_of_sb3_images_channels_first(make: Maker) -> None:
    env = make("Pong", 3)
    assert env.num_envs == 3
    assert env.observation_space.shape == (4, 84, 84)
    assert env.observation_space.dtype == np.uint8
    record = play(env, 3)
    for observations in record.observations:
        assert observations.shape == (3, 4, 84, 84)
        assert observations.dtype == np.uint8
    for rewards, dones, infos in zip(record.rewards, record.dones, record.infos, strict=True):
        assert (rewards.shape, rewards.dtype) == ((3,), np.float32)
        assert (dones.shape, dones.dtype) == ((3,), np.bool_)
        assert len(infos) == 3


def test_backends_offer_the_same_actions(make: Maker) -> None:
    for game, n_actions in {"Breakout": 4, "Pong": 6, "MsPacman": 9}.items():
        assert make(game, 1).action_space.n == n_actions  # type: ignore[attr-defined]


def test_stack_moves_by_one_frame_a_step_and_starts_anew_after_done(make: Maker) -> None:
    record = play(make(), 150)
    assert np.any(record.dones)
    assert np.all(record.observations[0][:, :3] == 0)
    for t, dones in enumerate(record.dones):
        before, after = record.observations[t], record.observations[t + 1]
        for i, done in enumerate(dones):
            if done:
                last = record.infos[t][i]["terminal_observation"]
                assert last.shape == (4, 84, 84)
                assert last.dtype == np.uint8
                np.testing.assert_array_equal(last[:3], before[i, 1:])
                assert last[3].any()
                assert np.all(after[i, :3] == 0)
            else:
                assert "terminal_observation" not in record.infos[t][i]
                np.testing.assert_array_equal(after[i, :3], before[i, 1:])
            assert after[i, 3].any()


def test_observations_stay_valid_after_later_steps(make: Maker) -> None:
    record = play(make(), 60)
    np.testing.assert_array_equal(record.observations, record.copies)


def test_rewards_are_the_sign_of_the_score_but_the_games_return_is_raw(make: Maker) -> None:
    options: dict[str, Any] = {"game": "Qbert", "seed": 2, "terminal_on_life_loss": False}
    clipped = play(make(**options), 320)
    raw = play(make(**options, clip_reward=False), 320)
    assert np.max(raw.rewards) >= 25  # points of Qbert's first square
    np.testing.assert_array_equal(clipped.rewards, np.sign(raw.rewards))
    of_clipped = [info["episode"]["r"] for infos in clipped.infos for info in infos if "episode" in info]
    of_raw = [info["episode"]["r"] for infos in raw.infos for info in infos if "episode" in info]
    assert of_clipped == of_raw
    assert max(of_raw) >= 50


def test_life_loss_ends_episode_but_not_game(make: Maker) -> None:
    env = make(clip_reward=False)
    record = play(env, 500)
    games = 0
    for i in range(env.num_envs):
        episodes, total, length = 0, 0.0, 0
        for t in range(len(record.dones)):
            info = record.infos[t][i]
            total += record.rewards[t][i]
            length += 1
            episodes += int(record.dones[t][i])
            if "episode" in info:
                assert record.dones[t][i]
                assert episodes == 5  # Breakout's lives
                assert info["episode"]["r"] == total
                assert info["episode"]["l"] == length
                assert info["episode"]["t"] > 0
                episodes, total, length = 0, 0.0, 0
                games += 1
            if record.dones[t][i]:
                assert info["TimeLimit.truncated"] is False
    assert games >= 2


def test_without_terminal_on_life_loss_only_a_game_is_an_episode(make: Maker) -> None:
    record = play(make(terminal_on_life_loss=False), 350)
    assert np.any(record.dones)
    for dones, infos in zip(record.dones, record.infos, strict=True):
        assert [bool(done) for done in dones] == ["episode" in info for info in infos]


def test_time_limit_is_truncation_and_ends_the_game(make: Maker) -> None:
    max_steps = 50
    record = play(make("Pong", max_frames=4 * max_steps), 120)
    ends = [
        (t, info)
        for t, infos in enumerate(record.infos)
        for i, info in enumerate(infos)
        if record.dones[t][i]
    ]
    assert len(ends) >= 4
    for _, info in ends:
        assert info["TimeLimit.truncated"] is True
        # Gymnasium counts the frames of the start as well: up to 30 without action, 8 of FIRE and action 2
        assert max_steps - 10 <= info["episode"]["l"] <= max_steps
        assert info["terminal_observation"].any()


def test_same_seed_gives_the_same_trajectory_through_ends_of_games(make: Maker) -> None:
    one, other = play(make(n_envs=1, seed=7), 320), play(make(n_envs=1, seed=7), 320)
    assert any("episode" in info for infos in one.infos for info in infos)
    assert_same(one, other)


def test_environment_is_seeded_with_seed_plus_its_index(make: Maker) -> None:
    four, one = make(n_envs=4, seed=20).reset(), make(n_envs=1, seed=23).reset()
    assert isinstance(four, np.ndarray)
    assert isinstance(one, np.ndarray)
    np.testing.assert_array_equal(four[3], one[0])
    assert len({observation.tobytes() for observation in four}) > 1


def test_seeding_again_repeats_the_trajectory_even_in_the_middle_of_a_game(make: Maker) -> None:
    env = make(seed=3)
    first = play(env, 60)
    assert np.any(first.dones)
    play(env, 37)
    env.seed(3)
    assert_same(first, play(env, 60))


def test_reset_starts_new_games_even_after_a_lost_life(make: Maker) -> None:
    env = make(n_envs=1, clip_reward=False)
    play(env, 60)  # a life or two
    record = play(env, 250)
    ends = [t for t, infos in enumerate(record.infos) if "episode" in infos[0]]
    assert ends
    assert sum(bool(dones[0]) for dones in record.dones[: ends[0] + 1]) == 5
    assert record.infos[ends[0]][0]["episode"]["l"] == ends[0] + 1
    assert record.infos[ends[0]][0]["episode"]["r"] == sum(record.rewards[: ends[0] + 1])


def test_sticky_actions_repeat_the_last_one(make: Maker) -> None:
    """With probability 1 nothing that the agent chooses ever counts."""
    for probability, agent_has_a_say in ((0.0, True), (1.0, False)):
        env = make(n_envs=1, repeat_action_probability=probability)
        env.seed(1)
        one = play(env, 30, action_seed=1)
        env.seed(1)
        assert differs(one, play(env, 30, action_seed=2)) == agent_has_a_say


def test_evaluate_policy_reports_whole_games_in_raw_points(make: Maker) -> None:
    env = make("Qbert")
    model = DQN("CnnPolicy", env, buffer_size=10, device="cpu", seed=0, policy_kwargs={"net_arch": []})
    model.exploration_rate = 1.0
    assert env.env_is_wrapped(Monitor) == [True, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # SB3 warns where there is no Monitor
        returns, lengths = evaluate_policy(
            model, env, n_eval_episodes=2, deterministic=False, return_episode_rewards=True
        )
    assert len(returns) == len(lengths) == 2
    assert all(points % 25 == 0 for points in returns)  # type: ignore[union-attr]
    assert min(lengths) > 100  # type: ignore[type-var]


def test_sb3_trains_on_it_as_it_is(make: Maker) -> None:
    env = make()
    model = A2C("CnnPolicy", env, n_steps=4, device="cpu", seed=0)
    assert model.get_env() is env  # no transposition added
    model.learn(16)
    assert model.num_timesteps == 16


def test_rendering_gives_a_tiled_rgb_image(make: Maker) -> None:
    env = make(n_envs=3)
    env.reset()
    env.step(np.array([1, 1, 1]))
    images = env.get_images()
    assert len(images) == 3
    for image in images:
        assert image is not None
        assert (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)
        assert image.any()
    tiled = env.render(mode="rgb_array")
    assert tiled is not None
    assert tiled.shape[0] >= images[0].shape[0] * 2  # type: ignore[union-attr]
