"""
What intervals and verdicts hold when the truth is known: simulated scores that look like Atari's.

Each game's mean and spread over seeds, human-normalised, are those of five published seeds of Dopamine (the
mean of the last five iterations in ``baselines/atari/data``): spreads differ 500-fold between games. Scores
are drawn as normal, as skewed (gamma with skewness 1.5), or as bimodal (a run takes off with probability
0.6, which makes up the spread), all with that mean and spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rl_coordconv.compare import aggregation, statistics
from rl_coordconv.compare.aggregation import Scores
from rl_coordconv.compare.statistics import Estimate
from rl_coordconv.compare.tables import Table
from rl_coordconv.compare.verdicts import Question, decide

# Game: (mean, standard deviation over seeds) of Rainbow and of Quantile (JAX), two agents with much spread.
RAINBOW = {
    "Alien": (0.476, 0.047),
    "Asteroids": (0.016, 0.003),
    "BeamRider": (0.355, 0.012),
    "Breakout": (3.805, 0.427),
    "MsPacman": (0.545, 0.021),
    "Pong": (1.157, 0.009),
    "Qbert": (1.346, 0.093),
    "Seaquest": (0.232, 0.197),
    "SpaceInvaders": (2.582, 0.950),
}
QUANTILE = {
    "Alien": (0.460, 0.157),
    "Asteroids": (0.010, 0.001),
    "BeamRider": (0.360, 0.117),
    "Breakout": (1.853, 1.030),
    "MsPacman": (0.529, 0.062),
    "Pong": (1.146, 0.003),
    "Qbert": (1.566, 0.781),
    "Seaquest": (0.096, 0.033),
    "SpaceInvaders": (0.586, 0.130),
}
AGENTS = {"Rainbow": RAINBOW, "Quantile": QUANTILE}
FEW = ("Seaquest", "SpaceInvaders")  # as games of a small comparison, where verdicts are easiest to get wrong
SKEWNESS = 1.5
TAKES_OFF = 0.6
Draw = Callable[[np.random.Generator, int], np.ndarray]


def _skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    shape = 4 / SKEWNESS**2
    return np.asarray((rng.gamma(shape, size=n) - shape) / np.sqrt(shape))


def _bimodal(rng: np.random.Generator, n: int) -> np.ndarray:
    took_off = (rng.random(n) < TAKES_OFF) - TAKES_OFF
    spread = np.sqrt(TAKES_OFF * (1 - TAKES_OFF))
    return np.asarray((took_off / spread + 0.2 * rng.standard_normal(n)) / np.sqrt(1.04))


NOISES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "skewed": _skewed,
    "bimodal": _bimodal,
}


@dataclass(frozen=True)
class World:
    """
    Where scores come from.

    :param games: Mean and standard deviation by game
    :param noise: What is added to the mean, of mean 0 and spread 1
    """

    games: dict[str, tuple[float, float]]
    noise: Draw

    def scores(self, rng: np.random.Generator, n: int, shift: float = 0.0) -> list[np.ndarray]:
        """Return ``n`` runs of every game, each game moved by ``shift`` standard deviations."""
        return [mean + spread * (shift + self.noise(rng, n)) for mean, spread in self.games.values()]

    def true_iqm(self, rng: np.random.Generator, runs: int = 20_000) -> float:
        """Return the IQM of very many runs."""
        values = np.concatenate(self.scores(rng, runs))
        return float(aggregation.iqm(values, np.full((1, len(values)), 1 / len(values)))[0])


def interval_coverage(world: World, n: int, trials: int, seed: int = 0) -> dict[str, float]:
    """
    Return how often the 95 % intervals hold the truth.

    :param world: Where scores come from
    :param n: Runs per arm and game
    :param trials: Comparisons simulated
    :param seed: Of the simulation
    :return: Share by kind of interval; two arms alike, so that the truth of differences is 0 and of chances
        0.5
    """
    rng = np.random.default_rng(seed)
    truth = world.true_iqm(rng)
    means = [mean for mean, _ in world.games.values()]
    hits: dict[str, list[bool]] = {}
    for _ in range(trials):
        ours, theirs = world.scores(rng, n), world.scores(rng, n)
        found: dict[str, list[tuple[Estimate, float]]] = {
            "IQM": [(aggregation.aggregate(ours, aggregation.iqm), truth)],
            "difference of IQMs": [(aggregation.aggregate_difference(ours, theirs, aggregation.iqm), 0.0)],
            "chance over games": [(aggregation.improvement_over_games(ours, theirs), 0.5)],
            "mean of a game": [
                (statistics.mean_of_runs(x), mean) for x, mean in zip(ours, means, strict=True)
            ],
            "difference in a game": [
                (statistics.difference(x, y), 0.0) for x, y in zip(ours, theirs, strict=True)
            ],
            "chance in a game": [
                (statistics.improvement_on_game(x, y), 0.5) for x, y in zip(ours, theirs, strict=True)
            ],
        }
        for name, estimates in found.items():
            hits.setdefault(name, []).extend(
                estimate.low <= true <= estimate.high
                for estimate, true in estimates
                if estimate.low is not None and estimate.high is not None and not estimate.is_range
            )
    return {name: float(np.mean(held)) for name, held in hits.items() if held}


def verdict_rates(world: World, n: int, shift: float, trials: int, seed: int = 0) -> dict[str, float]:
    """
    Return how often the report's decision rule gives verdicts.

    :param world: Where scores come from
    :param n: Runs per arm and game
    :param shift: By how many standard deviations the arm is better in every game; 0 makes every verdict wrong
    :param trials: Comparisons simulated
    :param seed: Of the simulation
    :return: Share of comparisons with any verdict, with the overall one, share of games with one, and how
        often a game's verdict and its exact Mann-Whitney test (uncorrected) point to different sides
    """
    rng = np.random.default_rng(seed)
    any_verdict, overall, games, against = [], [], [], []
    for _ in range(trials):
        ours, theirs = world.scores(rng, n, shift), world.scores(rng, n)
        decided, everything = verdicts_of(ours, theirs)
        given = [verdict != "undecided" for verdict in decided]
        any_verdict.append(any(given) or everything != "undecided")
        overall.append(everything != "undecided")
        games += given
        for verdict, x, y in zip(decided, ours, theirs, strict=True):
            chance = statistics.improvement_on_game(x, y).value
            against.append((verdict == "better" and chance < 0.5) or (verdict == "worse" and chance > 0.5))
    return {
        "any verdict": float(np.mean(any_verdict)),
        "overall": float(np.mean(overall)),
        "a game": float(np.mean(games)),
        "against Mann-Whitney": float(np.mean(against)),
    }


def verdicts_of(ours: Scores, theirs: Scores) -> tuple[list[str], str]:
    """Return the decision rule's outcomes on two arms' scores: by game, and overall."""
    whole = Question(
        aggregation.aggregate_difference(ours, theirs, aggregation.iqm),
        aggregation.permutation_p_value(ours, theirs, aggregation.iqm),
    )
    single = [
        Question(statistics.difference(x, y), statistics.mann_whitney(x, y))
        for x, y in zip(ours, theirs, strict=True)
    ]
    decided = decide([whole, *single])
    return [verdict.outcome for verdict in decided[1:]], decided[0].outcome


def tables(seeds: Sequence[int], trials: int) -> Iterator[Table]:
    """
    Yield coverage, wrong verdicts and right ones.

    :param seeds: Numbers of runs per arm and game
    :param trials: Comparisons simulated for each number
    """
    worlds = {
        f"{agent}, {noise}": World(games, draw)
        for agent, games in AGENTS.items()
        for noise, draw in NOISES.items()
    }
    few = {
        f"{name}, {len(FEW)} games": World({game: world.games[game] for game in FEW}, world.noise)
        for name, world in worlds.items()
    }
    held = [
        {"scores": name, "seeds": f"{n}"} | _percent(interval_coverage(world, n, trials))
        for name, world in (worlds | few).items()
        for n in seeds
    ]
    yield _table("Coverage: 95 % intervals that hold the truth", held)
    several = [n for n in seeds if n > 2]
    wrong = [
        {"scores": name, "seeds": f"{n}"} | _percent(verdict_rates(world, n, 0.0, trials))
        for name, world in (worlds | few).items()
        for n in several
    ]
    yield _table("Verdicts between two arms that are alike: all of them wrong", wrong)
    right = [
        {"better by": f"{shift} SD", "seeds": f"{n}"}
        | _percent(verdict_rates(worlds["Rainbow, normal"], n, shift, max(trials // 4, 1)))
        for shift in (1.0, 2.0, 4.0)
        for n in several
    ]
    yield _table("Verdicts where one arm is better in every game (Rainbow, normal)", right)


def _percent(shares: dict[str, float]) -> dict[str, str]:
    return {name: f"{100 * share:.1f} %" for name, share in shares.items()}


def _table(caption: str, rows: list[dict[str, str]]) -> Table:
    columns = [*max(rows, key=len)] if rows else []
    return Table(f"{caption}:", columns, [[row.get(name, "-") for name in columns] for row in rows])
