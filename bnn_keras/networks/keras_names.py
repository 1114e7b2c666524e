"""Keras's automatic layer names, which checkpoints of references written in Keras contain."""

from __future__ import annotations

import collections
import itertools


class KerasNames:
    """Number layers of each kind: "conv2d", "conv2d_1", …."""

    def __init__(self) -> None:
        self._numbers: dict[str, itertools.count] = collections.defaultdict(itertools.count)

    def __call__(self, kind: str, name: str = "") -> str:
        """Return the next name of a kind. `name`, the name in another codebase, is ignored."""
        number = next(self._numbers[kind])
        return f"{kind}_{number}" if number else kind
