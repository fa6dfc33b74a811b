"""Environments of every backend."""

from collections.abc import Iterator

import pytest
from playing import Maker

from rl_coordconv.envs import BACKENDS


@pytest.fixture(params=[*BACKENDS, "native, halves"])
def make(request: pytest.FixtureRequest) -> Iterator[Maker]:
    backend, _, halves = request.param.partition(", ")
    maker = Maker(backend, bool(halves))
    yield maker
    for env in maker.envs:
        env.close()
