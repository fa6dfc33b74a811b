"""Names of games, as people write them."""

import pytest

from rl_coordconv.envs import canonical_game, game_names, rom_name
from rl_coordconv.errors import UserError


@pytest.mark.parametrize(
    ("written", "game"),
    [
        ("breakout", "Breakout"),
        ("Breakout", "Breakout"),
        (" BREAKOUT ", "Breakout"),
        ("ALE/Breakout-v5", "Breakout"),
        ("Breakout-v4", "Breakout"),
        ("BreakoutNoFrameskip-v4", "Breakout"),
        ("BreakoutDeterministic-v0", "Breakout"),
        ("ms_pacman", "MsPacman"),
        ("MsPacman", "MsPacman"),
        ("Ms. Pacman", "MsPacman"),
        ("Ms. Pac-Man", "MsPacman"),
        ("Q*bert", "Qbert"),
        ("space invaders", "SpaceInvaders"),
        ("tic_tac_toe_3d", "TicTacToe3D"),
    ],
)
def test_names_are_accepted_as_people_write_them(written: str, game: str) -> None:
    assert canonical_game(written) == game


def test_every_game_has_a_rom_and_is_its_own_canonical_name() -> None:
    games = game_names()
    assert len(games) > 90
    for game in games:
        assert canonical_game(game) == game
        assert canonical_game(rom_name(game)) == game


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ("brekout", "Breakout"),
        ("ALE/Pongg-v5", "Pong"),
        ("Ms Pac Men", "MsPacman"),
        ("Breakout-ram-v4", "Breakout"),
    ],
)
def test_unknown_game_names_the_nearest_one(written: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"unknown game '{written}'.*did you mean '{nearest}'"):
        canonical_game(written)


@pytest.mark.parametrize("written", ["", "xyzzy", "../etc/passwd", "CartPole-v1"])
def test_names_that_are_no_game_are_refused(written: str) -> None:
    with pytest.raises(UserError, match="unknown game"):
        canonical_game(written)
