"""
The C++ backends and SB3's wrapper stack play the same games.

SB3's wrappers take hidden steps: after a lost life no-op, and, in games with a FIRE action, FIRE and
action 2 at every start. The C++ backends leave those to the agent, and start a game with one frame of
FIRE. So the test plays the hidden steps explicitly in the C++ backend, and puts that one frame into
Gymnasium's game, below SB3's wrappers; everything else is the stack as users get it.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.envs import gymnasium as wrapped
from rl_coordconv.envs import make_atari_vec_env

NOOP, FIRE, ACTION_2 = 0, 1, 2


def has_fire(env: gym.Env) -> bool:
    return "FIRE" in env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]


class FirstFrame(gym.Wrapper):
    """Begin a game with the frame with which the C++ backend begins it, if any."""

    def __init__(self, env: gym.Env, noop: bool) -> None:
        super().__init__(env)
        self.actions = [FIRE] if has_fire(env) else [NOOP] if noop else []

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        for action in self.actions:
            observation, _, _, _, info = self.env.step(action)
        return observation, info


class GrayScreen(gym.ObservationWrapper):
    """Show the screen in shades of gray, still in three equal channels."""

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.repeat(cv2.cvtColor(observation, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)


class Pair:
    """A C++ backend and SB3's stack, stepped with the same actions; hidden steps are played in the former."""

    def __init__(self, game: str, backend: str, monkeypatch: pytest.MonkeyPatch, gray_first: bool) -> None:
        make_gym = gym.make

        def make(*args: Any, **kwargs: Any) -> gym.Env:
            # EnvPool waits at least one frame where there is no FIRE to press
            env = FirstFrame(make_gym(*args, **kwargs), noop=backend == "envpool")
            return GrayScreen(env) if gray_first else env

        monkeypatch.setattr(wrapped.gym, "make", make)
        options: dict[str, Any] = {"n_envs": 1, "clip_reward": False, "noop_max": 0}
        self.fast: VecEnv = make_atari_vec_env(game, backend=backend, **options)
        self.sb3: VecEnv = make_atari_vec_env(game, backend="gymnasium", **options)
        self.start = [FIRE, ACTION_2] if has_fire(self.sb3.unwrapped.envs[0]) else []  # type: ignore[attr-defined]
        self.counts: Counter[str] = Counter()
        self.sb3_observation = self.sb3.reset()
        self.fast_observation = self.fast.reset()
        self.hidden_in_game = 0
        self.hidden_steps(self.start)

    def hidden_steps(self, actions: list[int]) -> None:
        for action in actions:
            self.fast_observation, _, dones, _ = self.fast.step(np.array([action]))
            assert not dones[0], "choose another seed: a hidden step ended a life"
            self.hidden_in_game += 1

    def play(self, n_steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Play random actions, check rewards and ends, and yield both newest frames, (84, 84) uint8."""
        rng = np.random.default_rng(0)
        for _ in range(n_steps):
            yield self.fast_observation[0, -1], self.sb3_observation[0, -1]
            action = rng.integers(0, self.fast.action_space.n, size=1)  # type: ignore[attr-defined]
            self.fast_observation, fast_reward, fast_done, fast_infos = self.fast.step(action)
            self.sb3_observation, sb3_reward, sb3_done, sb3_infos = self.sb3.step(action)
            assert fast_reward == sb3_reward
            assert fast_done == sb3_done
            assert ("episode" in fast_infos[0]) == ("episode" in sb3_infos[0])
            self.counts["rewards"] += int(fast_reward[0] != 0)
            if "episode" in fast_infos[0]:
                fast_game, sb3_game = fast_infos[0]["episode"], sb3_infos[0]["episode"]
                assert fast_game["r"] == sb3_game["r"]
                assert fast_game["l"] == sb3_game["l"] + self.hidden_in_game
                self.counts["games"] += 1
                self.hidden_in_game = 0
                self.hidden_steps(self.start)
            elif fast_done[0]:
                self.counts["lives"] += 1
                self.hidden_steps([NOOP, *self.start])

    def close(self) -> None:
        self.fast.close()
        self.sb3.close()


# What each game must show in its steps: rewards, lost lives, ended games
GAMES = {
    "Breakout": (1000, {"rewards": 10, "lives": 15, "games": 4}),
    "Pong": (1000, {"rewards": 20, "lives": 0, "games": 1}),  # no lives
    "Qbert": (1100, {"rewards": 15, "lives": 6, "games": 2}),  # 0 lives for a while before the end
    "MsPacman": (1200, {"rewards": 50, "lives": 4, "games": 2}),  # no FIRE
}


@pytest.mark.parametrize("game", GAMES)
def test_native_plays_the_same_games_as_sb3s_wrappers(game: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n_steps, expected = GAMES[game]
    pair = Pair(game, "native", monkeypatch, gray_first=True)
    for fast_frame, sb3_frame in pair.play(n_steps):
        # 1: two implementations of the resize round differently
        np.testing.assert_allclose(fast_frame.astype(int), sb3_frame, atol=1)
    pair.close()
    for what, at_least in expected.items():
        assert pair.counts[what] >= at_least


@pytest.mark.parametrize("game", ["Breakout", "MsPacman"])
def test_envpool_plays_the_same_games_as_sb3s_wrappers(game: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("envpool")
    pair = Pair(game, "envpool", monkeypatch, gray_first=True)
    for fast_frame, sb3_frame in pair.play(800):
        np.testing.assert_allclose(fast_frame.astype(int), sb3_frame, atol=1)
    pair.close()
    assert pair.counts["games"] >= 1


@pytest.mark.parametrize(("game", "share"), [("Breakout", 0.0), ("MsPacman", 0.02)])
def test_maximum_of_grays_instead_of_colours_changes_few_pixels(
    game: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SB3 takes the maximum of two frames in colour, the C++ backends in gray: flickering colours differ."""
    pair = Pair(game, "native", monkeypatch, gray_first=False)
    for fast_frame, sb3_frame in pair.play(300):
        assert np.mean(np.abs(fast_frame.astype(int) - sb3_frame) > 1) <= share
    pair.close()
