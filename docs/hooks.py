"""MkDocs hook: docstrings name code as Sphinx does, ``:class:`Name```, which Markdown shows as it is."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:py:)?(?:class|func|data|meth|mod|attr):<code>(~?)\.*([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Show a role as code, with ``~`` its last name only."""
    return ROLE.sub(
        lambda match: f"<code>{match[2].rpartition('.')[2] if match[1] else match[2]}</code>", html
    )
