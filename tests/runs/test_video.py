"""What a film shows of a game."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rl_coordconv.config import RunConfig
from rl_coordconv.runs import video


class Screens:
    """An environment whose picture is the number of the step."""

    step = 0

    def get_images(self) -> list[np.ndarray]:
        return [np.full((2, 2, 3), self.step, dtype=np.uint8)]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("rewards", "shown"),
    [
        ([0, 0, 1, 5, 0, 0, 3], [2, 3, 4]),  # the first of those that score most
        ([1, 0, 0, 0, 0, 0], [1, 2, 3]),
        ([0, 0, 0, 0, 4, 9], [3, 4, 5]),  # at the last reward the screen is the next game's
        ([7, 1, 0], [1, 2]),  # a game that is shorter than the film
    ],
)
def test_film_is_the_stretch_that_scores_most(
    monkeypatch: pytest.MonkeyPatch, rewards: Sequence[float], shown: list[int]
) -> None:
    def play_games(model: Any, env: Screens, n: int, seed: int, deterministic: bool, callback: Any) -> Any:
        for env.step, reward in enumerate(rewards, start=1):
            callback({"done": env.step == len(rewards), "env": env, "reward": reward}, {})
        return [sum(rewards)], [len(rewards)]

    monkeypatch.setattr(video, "make_eval_env", lambda *args, **options: Screens())
    monkeypatch.setattr(video, "play_games", play_games)
    model: Any = None
    frames, score = video.film_game(model, RunConfig("Pong"), 0, deterministic=False, max_steps=3)
    assert [int(frame[0, 0, 0]) for frame in frames] == shown
    assert score == sum(rewards)
