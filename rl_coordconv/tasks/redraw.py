"""
Figure and table of an experiment from its ``results.json`` alone.

On disk afterwards, beside ``gan.json``: ``gan.png``, and in every page (``*.md``) of that folder the table
between ``<!-- table of gan.json -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rl_coordconv.errors import UserError
from rl_coordconv.files import write_text
from rl_coordconv.tasks.figures import draw_measurements, measurements_size, save
from rl_coordconv.tasks.locate.figure import locate_figure
from rl_coordconv.tasks.seed_statistics import summary_table
from rl_coordconv.tasks.toy.figures import toy_figure


def redraw(file: Path) -> list[Path]:
    """
    Draw a ``results.json`` again, with nothing else at hand.

    :param file: As an experiment writes it; the picture gets its name with ``.png``
    :return: The picture, and the pages whose table is another now
    :raises UserError: It is not there, or not an experiment's results
    """
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        figure, table = _figure(results), summary_table(results)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{file}' cannot be read: {getattr(error, 'strerror', 'not text')}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError):  # RecursionError is one too
        raise UserError(f"'{file}' is not the results.json of an experiment") from None
    pages = {page: _read_page(page) for page in sorted(file.parent.glob("*.md"))}
    save(figure, file.parent, f"{file.stem}.png")
    changed = [page for page, text in pages.items() if _paste(table, file.name, page, text)]
    return [file.with_suffix(".png"), *changed]


def _figure(results: dict[str, Any]) -> Figure:
    if "samples" in results:
        return locate_figure(results) if "extractors" in results["options"] else toy_figure(results)
    shown = [
        key
        for key in results["measurements"]
        if all(arm[key]["mean"] is not None for arm in results["summary"].values())
    ]
    figure = Figure(figsize=measurements_size(shown), layout="constrained")
    draw_measurements(figure, results, shown)
    return figure


def _read_page(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{page}' cannot be read: {getattr(error, 'strerror', 'not text')}") from None


def _paste(table: str, name: str, page: Path, text: str) -> bool:
    """Put the table of a file between its marks on a page; return whether that changed the page."""
    mark = re.escape(f"<!-- table of {name} -->")
    changed = re.sub(
        rf"({mark}\n)(?:(?!<!-- table of ).)*?(<!-- end -->)",
        lambda m: f"{m[1]}\n{table}\n{m[2]}",
        text,
        flags=re.S,
    )
    if changed != text:
        write_text(page, changed)
    return changed != text
