"""The names that Keras gives layers by itself: a reference written in Keras has them in its checkpoints."""

from __future__ import annotations

import collections
import itertools


class KerasNames:
    """Names by kind and number of order: "conv2d", "conv2d_1", … for each kind."""

    def __init__(self) -> None:
        self._numbers: dict[str, itertools.count] = collections.defaultdict(itertools.count)

    def __call__(self, kind: str, name: str = "") -> str:
        """The next name of a kind; `name`, another codebase's, is not looked at."""
        number = next(self._numbers[kind])
        return f"{kind}_{number}" if number else kind
