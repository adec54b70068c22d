"""Which of very many labels does a prompt list? Those whose words are like the text, and those that texts like it have."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]


def shortlist(likeness: Floats, neighbours: Ints | None, n: int) -> Ints:
    """Return the likeliest labels of one text.

    Turn by turn the next label by its words and the next by its neighbours, so that each of the two signs has its half.

    Parameters
    ----------
    likeness : ndarray
        Shape (K,), how much the label's name and definition are like the text; larger is more.
    neighbours : ndarray or None
        The labels 0 ... K-1 of the labelled texts nearest to it, nearest first, repeated as they come; None without any.
    n : int
        How many are wanted, >= 1.

    Returns
    -------
    ndarray
        Shape (min(n, K),), likeliest first, none twice.
    """
    by_words = np.argsort(-likeness, kind="stable").tolist()
    near = list(dict.fromkeys(neighbours.tolist())) if neighbours is not None else []
    chosen: dict[int, None] = {}
    for place in range(len(by_words)):
        for label in (*near[place : place + 1], by_words[place]):
            if len(chosen) < n:
                chosen.setdefault(int(label))
    return np.asarray(list(chosen), dtype=np.int64)
