"""Bad arguments end in one line that says what is allowed, before anything is created."""

import sys
from typing import Any

import numpy as np
import pytest

from rl_coordconv.envs import BACKENDS, make_atari_vec_env
from rl_coordconv.errors import UserError


@pytest.fixture
def nothing_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when a backend is reached."""

    def reached(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a backend was created")

    for name in BACKENDS:
        monkeypatch.setitem(BACKENDS, name, reached)


@pytest.mark.usefixtures("nothing_is_created")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"game": "brekout"}, "unknown game 'brekout'.*did you mean 'Breakout'"),
        ({"n_envs": 0}, "n_envs must be an integer of at least 1, got 0"),
        ({"n_envs": -3}, "n_envs must be .* got -3"),
        ({"n_envs": 2.0}, "n_envs must be .* got 2.0"),
        ({"n_envs": "8"}, "n_envs must be .* got '8'"),
        ({"n_envs": True}, "n_envs must be .* got True"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"seed": 0.5}, "seed must be .* got 0.5"),
        ({"noop_max": -1}, "noop_max must be .* got -1"),
        ({"max_frames": 0}, "max_frames must be .* got 0"),
        ({"num_threads": -1}, "num_threads must be .* got -1"),
        ({"repeat_action_probability": 1.5}, "repeat_action_probability must be .* 0 to 1, got 1.5"),
        ({"repeat_action_probability": float("nan")}, "repeat_action_probability must be .* got nan"),
        ({"repeat_action_probability": "0.25"}, "repeat_action_probability must be .* got '0.25'"),
        ({"vec_env": "subprocess"}, "unknown vec_env 'subprocess'.*did you mean 'subproc'"),
    ],
)
def test_bad_argument_is_named(backend: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_atari_vec_env(**{"game": "Breakout", "backend": backend, **arguments})


@pytest.mark.usefixtures("nothing_is_created")
def test_unknown_backend_names_the_allowed_and_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"unknown backend 'gymnasiun': use one of native, gymnasium, envpool.*'gymnasium'"
    ):
        make_atari_vec_env("Breakout", backend="gymnasiun")


def test_what_follows_the_number_of_environments_has_to_be_named() -> None:
    with pytest.raises(TypeError, match="positional arguments"):
        make_atari_vec_env("Breakout", 8, 1)  # type: ignore[misc]


@pytest.mark.usefixtures("nothing_is_created")
def test_halves_are_refused_by_a_backend_that_steps_games_one_by_one() -> None:
    with pytest.raises(UserError, match="halves needs backend native or envpool, not gymnasium"):
        make_atari_vec_env("Breakout", backend="gymnasium", halves=True)


def test_missing_envpool_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UserError, match=r"pip install 'rl-coordconv\[envpool\]'"):
        make_atari_vec_env("Breakout", backend="envpool")


def test_numpy_integers_are_integers() -> None:
    env = make_atari_vec_env("Pong", np.int64(1), seed=np.int64(3))  # type: ignore[arg-type]
    assert env.reset().shape == (1, 4, 84, 84)
    env.close()
