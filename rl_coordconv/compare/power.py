"""How many runs it takes to see a difference."""

from __future__ import annotations

import numpy as np
from scipy import stats

from rl_coordconv.compare.statistics import LEVEL, RANK_RUNS

POWER = 0.8
MOST_SEEDS = 1000


def power(
    effect: float | np.ndarray, n: int | np.ndarray, level: float = LEVEL, paired: bool = False
) -> np.ndarray:
    """
    Return the probability that a difference is shown with ``n`` runs of each of two arms (t-test).

    :param effect: The difference in standard deviations of a run's score, or of a seed's difference if
        paired; or several, shape ``(k,)``
    :param n: Runs of each arm; or several numbers, shape ``(k,)``
    :param level: Of the test
    :param paired: Whether it is the paired test
    """
    degrees, errors = (n - 1, n) if paired else (2 * n - 2, n / 2)
    return np.asarray(
        stats.nct.sf(stats.t.ppf((1 + level) / 2, degrees), degrees, abs(effect) * np.sqrt(errors))
    )


def detectable(n: int, level: float = LEVEL) -> float:
    """
    Return the smallest difference that ``n`` runs of each arm show with 80 % probability, see :func:`power`.
    """
    effects = np.geomspace(0.05, 100, 2000)
    enough = effects[power(effects, n, level) >= POWER]
    return float(enough[0]) if len(enough) else float("inf")


def seeds_needed(effect: float, level: float = LEVEL, paired: bool = False) -> int | None:
    """
    Return how many runs of each arm show a difference with 80 % probability, see :func:`power`.

    :param effect: As there
    :param level: Of the test
    :param paired: As there
    :return: The number, at least 4, which a verdict takes, or None if it is above 1,000
    """
    n = np.arange(RANK_RUNS, MOST_SEEDS + 1)
    enough = n[power(effect, n, level, paired) >= POWER]
    return int(enough[0]) if len(enough) else None
