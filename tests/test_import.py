"""Every public name is there; what importing loads is tested with the wheel."""

from __future__ import annotations

import rl_coordconv


def test_every_public_name_is_there_and_listed() -> None:
    for name in rl_coordconv.__all__:
        assert hasattr(rl_coordconv, name), name
    assert set(rl_coordconv.__all__) <= set(dir(rl_coordconv))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(rl_coordconv, "CoordConv3d")
