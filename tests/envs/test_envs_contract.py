"""The contract of :mod:`rl_coordconv.envs.make`, the same for every backend."""

import os
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.config import RunConfig
from rl_coordconv.envs import BACKENDS, HALVING, make_atari_vec_env
from rl_coordconv.envs.batched import BatchedAtariVecEnv
from rl_coordconv.envs.halves import HalvedAtariVecEnv
from rl_coordconv.errors import UserError
from rl_coordconv.machine import available_cores


class Maker:
    """Makes environments of one backend, and closes them after the test."""

    def __init__(self, backend: str, halves: bool = False) -> None:
        self.backend = backend
        self.halves = halves
        self.envs: list[VecEnv] = []
        if backend == "envpool":
            pytest.importorskip("envpool")

    def __call__(self, game: str = "Breakout", n_envs: int = 2, **options: Any) -> VecEnv:
        env = make_atari_vec_env(game, n_envs, backend=self.backend, halves=self.halves, **options)
        self.envs.append(env)
        return env


@pytest.fixture(params=[*BACKENDS, "native, halves"])
def make(request: pytest.FixtureRequest) -> Iterator[Maker]:
    backend, _, halves = request.param.partition(", ")
    maker = Maker(backend, bool(halves))
    yield maker
    for env in maker.envs:
        env.close()


@dataclass
class Record:
    """What happened; observations begin with the reset's, as given and as copied at once."""

    observations: list[np.ndarray] = field(default_factory=list)
    copies: list[np.ndarray] = field(default_factory=list)
    rewards: list[np.ndarray] = field(default_factory=list)
    dones: list[np.ndarray] = field(default_factory=list)
    infos: list[list[dict[str, Any]]] = field(default_factory=list)


def play(env: VecEnv, n_steps: int, action_seed: int = 0) -> Record:
    """Reset, and play random actions."""
    rng = np.random.default_rng(action_seed)
    record = Record()
    first = env.reset()
    assert isinstance(first, np.ndarray)
    record.observations.append(first)
    record.copies.append(first.copy())
    for _ in range(n_steps):
        actions = rng.integers(0, env.action_space.n, env.num_envs)  # type: ignore[attr-defined]
        observations, rewards, dones, infos = env.step(actions)
        assert isinstance(observations, np.ndarray)
        record.observations.append(observations)
        record.copies.append(observations.copy())
        record.rewards.append(rewards)
        record.dones.append(dones)
        record.infos.append(infos)
    return record


def assert_same(one: Record, other: Record) -> None:
    np.testing.assert_array_equal(one.rewards, other.rewards)
    np.testing.assert_array_equal(one.dones, other.dones)
    np.testing.assert_array_equal(one.copies, other.copies)


def differs(one: Record, other: Record) -> bool:
    return not np.array_equal(one.copies, other.copies)


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


def test_steps_can_be_sent_and_received_apart(make: Maker) -> None:
    env = make(seed=4)
    together = play(env, 4)
    env.seed(4)
    env.reset()
    rng = np.random.default_rng(0)
    for t in range(4):
        env.step_async(rng.integers(0, 4, 2))
        np.testing.assert_array_equal(env.step_wait()[0], together.copies[t + 1])


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


def test_reset_cancels_a_step_under_way(make: Maker) -> None:
    env = make(seed=4)
    first = play(env, 4)
    env.seed(4)
    env.step_async(np.array([1, 1]))
    assert_same(first, play(env, 4))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="interrupts itself with a POSIX timer")
def test_interrupted_environments_can_be_reset_and_closed(make: Maker) -> None:
    """Ctrl-C mostly comes while Python waits for the emulators."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def step_for_ever() -> None:
        while True:
            env.step(np.array([1, 1]))

    env = make()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(3):
            env.reset()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                step_for_ever()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    env.close()


def test_a_step_under_way_forbids_another(make: Maker) -> None:
    env = make()
    env.reset()
    env.step_async(np.array([1, 1]))
    if isinstance(env, BatchedAtariVecEnv):
        with pytest.raises(RuntimeError, match="has not ended"):
            env.step_async(np.array([1, 1]))
    env.step_wait()
    env.close()


def test_closing_twice_and_with_a_step_under_way_is_harmless(make: Maker) -> None:
    env = make()
    env.reset()
    env.step_async(np.array([1, 1]))
    env.close()
    env.close()


def test_processes_of_their_own_change_nothing_but_the_speed() -> None:
    """``subproc`` is tested here only: starting processes takes seconds."""
    dummy = make_atari_vec_env("Breakout", 2, backend="gymnasium", seed=9)
    subproc = make_atari_vec_env("Breakout", 2, backend="gymnasium", seed=9, vec_env="subproc")
    one, other = play(dummy, 250), play(subproc, 250)
    assert_same(one, other)
    assert other.rewards[0].dtype == np.float32
    assert [info.get("episode", {}).get("r") for infos in one.infos for info in infos] == [
        info.get("episode", {}).get("r") for infos in other.infos for info in infos
    ]
    assert any("episode" in info for infos in other.infos for info in infos)
    assert subproc.env_is_wrapped(Monitor) == [True, True]
    np.testing.assert_array_equal(dummy.render(mode="rgb_array"), subproc.render(mode="rgb_array"))
    dummy.close()
    subproc.close()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
@pytest.mark.skipif(available_cores() < 2, reason="ale_py starts no more threads than there are cores")
@pytest.mark.parametrize("backend", HALVING)
def test_emulators_have_as_many_threads_as_told_until_they_are_closed(backend: str) -> None:
    if backend == "envpool":
        pytest.importorskip("envpool")

    def threads_of(num_threads: int) -> int:
        before = len(os.listdir("/proc/self/task"))
        env = make_atari_vec_env("Breakout", 4, backend=backend, num_threads=num_threads)
        env.reset()
        started = len(os.listdir("/proc/self/task")) - before
        env.close()
        assert len(os.listdir("/proc/self/task")) <= before
        return started

    assert threads_of(2) - threads_of(1) == 1


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("backend", HALVING)
def test_impossible_actions_are_refused_before_they_reach_the_emulator(backend: str, halves: bool) -> None:
    """An exception in ale_py's threads would leave the next step waiting for ever."""
    if backend == "envpool":
        pytest.importorskip("envpool")
    env = make_atari_vec_env("Breakout", 2, backend=backend, halves=halves)
    env.reset()
    for actions in ([4, 0], [0, -1], [0], [0, 0, 0]):
        with pytest.raises(ValueError, match="actions must be 2 integers from 0 to 3"):
            env.step(np.array(actions))
    env.step(np.array([0, 3]))
    env.close()


@pytest.mark.parametrize("backend", HALVING)
def test_halves_play_the_games_that_the_undivided_environments_play(backend: str) -> None:
    if backend == "envpool":
        pytest.importorskip("envpool")
    whole, halved = (
        make_atari_vec_env("Breakout", 3, backend=backend, seed=7, halves=halves) for halves in (False, True)
    )
    assert isinstance(halved, HalvedAtariVecEnv)
    assert [half.num_envs for half in halved.halves] == [2, 1]
    one, other = play(whole, 200), play(halved, 200)
    assert_same(one, other)
    assert sum(bool(dones.any()) for dones in one.dones) > 3
    for ours, theirs in zip(one.infos, other.infos, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert {**a.get("episode", {}), "t": 0} == {**b.get("episode", {}), "t": 0}
    whole.close()
    halved.close()


def test_a_backend_added_to_the_table_is_offered_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "mine", BACKENDS["native"])
    env = make_atari_vec_env("Breakout", 1, backend="mine")
    assert env.reset().shape == (1, 4, 84, 84)  # type: ignore[union-attr]
    env.close()
    assert RunConfig("Breakout", backend="mine").validate().backend == "mine"
    with pytest.raises(UserError, match="use one of native, gymnasium, envpool, mine"):
        make_atari_vec_env("Breakout", backend="my")
