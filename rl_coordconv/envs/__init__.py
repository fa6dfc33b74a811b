"""Atari games as SB3 ``VecEnv``: one contract for every backend in ``BACKENDS`` (:mod:`.make`)."""

from rl_coordconv.envs.contract import MAX_FRAMES
from rl_coordconv.envs.games import canonical_game, game_names, rom_name
from rl_coordconv.envs.make import BACKENDS, HALVING, make_atari_vec_env

__all__ = [
    "BACKENDS",
    "HALVING",
    "MAX_FRAMES",
    "canonical_game",
    "game_names",
    "make_atari_vec_env",
    "rom_name",
]
