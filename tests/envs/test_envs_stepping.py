"""Steps sent and received apart, cut short, divided in halves, refused; processes, threads, the table."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playing import Maker, assert_same, play
from stable_baselines3.common.monitor import Monitor

from rl_coordconv.config import RunConfig
from rl_coordconv.envs import BACKENDS, HALVING, make_atari_vec_env
from rl_coordconv.envs.batched import BatchedAtariVecEnv
from rl_coordconv.envs.halves import HalvedAtariVecEnv
from rl_coordconv.errors import UserError
from rl_coordconv.machine import available_cores


def test_steps_can_be_sent_and_received_apart(make: Maker) -> None:
    env = make(seed=4)
    together = play(env, 4)
    env.seed(4)
    env.reset()
    rng = np.random.default_rng(0)
    for t in range(4):
        env.step_async(rng.integers(0, 4, 2))
        np.testing.assert_array_equal(env.step_wait()[0], together.copies[t + 1])


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
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        while True:
            env.step(np.array([1, 1]))

    env = make()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(3):
            env.reset()
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
    if isinstance(env, (BatchedAtariVecEnv, HalvedAtariVecEnv)):
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
        before = set(os.listdir("/proc/self/task"))
        env = make_atari_vec_env("Breakout", 4, backend=backend, num_threads=num_threads)
        env.reset()
        started = set(os.listdir("/proc/self/task")) - before
        env.close()
        assert not started & set(os.listdir("/proc/self/task"))
        return len(started)

    assert threads_of(2) - threads_of(1) == 1


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("backend", HALVING)
def test_impossible_actions_are_refused_before_they_reach_the_emulator(backend: str, halves: bool) -> None:
    """An exception in ale_py's threads would leave the next step waiting for ever."""
    if backend == "envpool":
        pytest.importorskip("envpool")
    env = make_atari_vec_env("Breakout", 2, backend=backend, halves=halves)
    env.reset()
    for actions in ([4, 0], [0, -1], [0], [0, 0, 0], [np.nan, 0], [1.0, 0.0]):
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
