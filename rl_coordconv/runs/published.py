"""Published scores to set runs beside."""

from __future__ import annotations

# RL Zoo's benchmark.md (https://github.com/DLR-RM/rl-baselines3-zoo): mean raw return of one agent of each
# after 10 M steps, by algorithm and game.
RL_ZOO: dict[str, dict[str, float]] = {
    "a2c": {
        "BeamRider": 2890,
        "Breakout": 280,
        "MsPacman": 1672,
        "Pong": 17.3,
        "Qbert": 3882,
        "RoadRunner": 31672,
        "Seaquest": 1721,
        "SpaceInvaders": 627,
    },
    "ppo": {
        "BeamRider": 3397,
        "Breakout": 398,
        "MsPacman": 1754,
        "Pong": 21.0,
        "Qbert": 15627,
        "RoadRunner": 40681,
        "Seaquest": 1784,
        "SpaceInvaders": 960,
    },
}
