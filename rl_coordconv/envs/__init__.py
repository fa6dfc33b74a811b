"""Atari games as Stable-Baselines3 ``VecEnv``: one contract, three backends (:mod:`.make`)."""

from rl_coordconv.envs.games import canonical_game, game_names, rom_name
from rl_coordconv.envs.make import BACKENDS, make_atari_vec_env

__all__ = ["BACKENDS", "canonical_game", "game_names", "make_atari_vec_env", "rom_name"]
