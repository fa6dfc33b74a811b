"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

BAR = r"\|"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    Return a table in Markdown.

    :param columns: Their names
    :param rows: Their cells
    """
    head, *body = [f"| {' | '.join(cell.replace('|', BAR) for cell in row)} |" for row in (columns, *rows)]
    return "\n".join([head, "|---" * len(columns) + "|", *body])
