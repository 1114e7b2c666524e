"""Show text of unknown origin, such as file names, without its control characters, and long lists shortened.

Needs no TensorFlow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# C0 and C1 controls except the line break, line and paragraph separators, changes of the writing direction, and lone
# surrogates, which stand for bytes of file names that are not UTF-8.
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text with its control characters as backslash escapes. Line breaks remain.

    >>> print(printable("red\x1b[2J.png"))
    red\x1b[2J.png
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def some(names: Sequence[str], number: int = 5) -> str:
    """Return the first names of a list, and how many more there are.

    >>> some(["cat", "dog", "wolf"], 2)
    'cat, dog and 1 more'
    >>> some([])
    'none'
    """
    more = f" and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(names[:number]) + more or "none"


def markdown_row(cells: Iterable[str | None]) -> str:
    r"""Return a row of a Markdown table. None is shown as –; control characters and Markdown's own are escaped.

    >>> print(markdown_row(["a|b", "<b>", None]))
    | a\|b | &lt;b> | – |
    """
    shown = ("–" if cell is None else printable(cell).replace("\n", " ") for cell in cells)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('<', '&lt;') for cell in shown)} |"
