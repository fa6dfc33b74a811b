"""Mutated config files end in a valid plan or one clear line; nothing is made on the way."""

from __future__ import annotations

import contextlib
import datetime
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl_coordconv.compare.matrix import load_comparison
from rl_coordconv.config import RunConfig, parse_config
from rl_coordconv.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
MUTATIONS = 120  # of each of the shipped files
VALUES: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        2**63,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        "1e-3",
        "../../etc",
        "é\u0000\U0001f600",
    ),
    *([], [[]], [None, 1], {}, {"a": {"b": []}}, "!!python/object/apply:os.system [touch pwned]"),
]


def mutate_tree(values: Any, rng: random.Random) -> Any:
    """Return a copy with one value or key of a nested mapping changed, removed or added."""
    if not isinstance(values, dict) or not values or rng.random() < 0.05:
        return rng.choice(VALUES)
    values = dict(values)
    key = rng.choice(list(values))
    kind = rng.randrange(5)
    if kind == 0:
        del values[key]
    elif kind == 1:
        values[rng.choice([f"{key}x", key.upper(), 7, datetime.date(2024, 1, 1), "", "seed "])] = values[key]
    else:
        values[key] = mutate_tree(values[key], rng)
    return values


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the file with bytes flipped, cut out, doubled, or cut off at the end."""
    place = rng.randrange(len(data))
    noise = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 4)))
    return rng.choice(
        [
            data[:place] + noise + data[place + len(noise) :],
            data[:place],
            data[:place] + data[place + rng.randrange(1, 30) :],
            data[:place] + data[max(0, place - 20) :],
            data[:place]
            + rng.choice([b"\t", b": ", b"- ", b"{", b"]", b"&a *a", b"!!python/name:os.x "])
            + data[place:],
        ]
    )


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_mutated_config_is_a_plan_or_one_line(path, tmp_path, monkeypatch):
    rng = random.Random(path.stem)
    monkeypatch.chdir(tmp_path)
    here = CONFIGS / "compare" if path.parent.name == "compare" else CONFIGS
    folder = tmp_path / "configs" / "compare"
    folder.mkdir(parents=True)
    for other in CONFIGS.glob("*.yaml"):
        (folder.parent / other.name).write_bytes(other.read_bytes())
    file = (folder if here.name == "compare" else folder.parent) / "mutated.yaml"
    load: Callable[[Path], Any] = load_comparison if here.name == "compare" else load_run_config
    before = sorted(tmp_path.rglob("*"))
    valid = refused = 0
    for _ in range(MUTATIONS):
        if rng.random() < 0.5:
            file.write_bytes(mutate_bytes(path.read_bytes(), rng))
        else:
            with contextlib.suppress(yaml.YAMLError):
                file.write_text(yaml.safe_dump(mutate_tree(yaml.safe_load(path.read_text()), rng)))
        try:
            load(file)
            valid += 1
        except UserError:
            refused += 1
    file.unlink()
    assert sorted(tmp_path.rglob("*")) == before
    assert min(valid, refused) > MUTATIONS // 20, "mutations must be of both kinds"


def load_run_config(path: Path) -> RunConfig:
    return parse_config(["--config", str(path)])
