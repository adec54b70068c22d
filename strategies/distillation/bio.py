"""How do labelled spans become labels of tokens, and probabilities of tokens become spans with probabilities of their own?

Class 0 is O (outside), 1 + 2t begins a span of type t, 2 + 2t goes on with one (BIO). Ranges of tokens are ``(first, last)``, both
included. A span is there exactly if its first token begins it, the others go on, and the token behind it does not::

    log P(span) = log P(B_t at first) + sum of log P(I_t) over the others + log(1 - P(I_t behind last))

The last two parts make a wrong boundary as doubtful as a wrong type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]
Bools: TypeAlias = npt.NDArray[np.bool_]

OUTSIDE = 0
NEVER = -1e9
"""Log-probability of what cannot be."""

FLOOR = -20.0
"""No log-probability of a span is smaller: one source alone is never absolutely sure."""

LIKELY = 0.1
"""A token that begins a span with this probability is looked at, whatever the best path says: spans may be missing there."""


class Range(NamedTuple):
    """A labelled range of tokens; both ends included."""

    first: int
    last: int
    kind: int


def n_classes(n_types: int) -> int:
    """Return the classes of a token."""
    return 1 + 2 * n_types


def begins(kind: int) -> int:
    """Return the class of a token that begins a span of this type."""
    return 1 + 2 * kind


def goes_on(kind: int) -> int:
    """Return the class of a token that goes on with one."""
    return 2 + 2 * kind


def targets(length: int, ranges: Iterable[Range]) -> Ints:
    """Return the class of each token, shape (length,); of spans that overlap the longest is kept."""
    classes: Ints = np.full(length, OUTSIDE, dtype=np.int64)
    for first, last, kind in sorted(ranges, key=lambda one: (one.first - one.last, one)):
        if not classes[first : last + 1].any():
            classes[first] = begins(kind)
            classes[first + 1 : last + 1] = goes_on(kind)
    return classes


def log_prob(log_probs: Floats, one: Range) -> float:
    """Return the log-probability of a span, from those of the tokens, shape (T, C)."""
    first, last, kind = one
    total = float(log_probs[first, begins(kind)] + log_probs[first + 1 : last + 1, goes_on(kind)].sum())
    if last + 1 < len(log_probs):
        total += float(np.log1p(-min(np.exp(log_probs[last + 1, goes_on(kind)]), 1.0 - 1e-9)))
    return max(total, FLOOR)


def mean_loss(log_probs: Floats, one: Range) -> float:
    """Return the loss of a span in nats, a token: a long span is no more suspect than a short one for being long."""
    return -log_prob(log_probs, one) / (one.last - one.first + 2)


def decode(log_probs: Floats, inner: Bools) -> list[Range]:
    """Return the spans on the most probable path.

    Parameters
    ----------
    log_probs : ndarray
        Shape (T, C).
    inner : ndarray
        Shape (T,), bool: the token goes on with the word of the one before it; no span begins or ends there.

    References
    ----------
    Viterbi, 1967; transitions are allowed or not, they are not learned.
    """
    if not len(log_probs):
        return []
    path = _viterbi(log_probs, inner)
    found: list[Range] = []
    for place, of in enumerate(path.tolist()):
        if of == OUTSIDE:
            continue
        if of % 2:
            found.append(Range(place, place, (of - 1) // 2))
        else:
            found[-1] = found[-1]._replace(last=place)
    return found


def _viterbi(log_probs: Floats, inner: Bools) -> Ints:
    length, classes = log_probs.shape
    between, within = _transitions(classes)
    best = np.where(np.arange(classes) % 2 == 0, NEVER, log_probs[0])
    best[OUTSIDE] = log_probs[0, OUTSIDE]
    back = np.zeros((length, classes), dtype=np.int64)
    for place in range(1, length):
        reached = best[:, None] + (within if inner[place] else between)
        back[place] = reached.argmax(axis=0)
        best = reached.max(axis=0) + log_probs[place]
    path = np.zeros(length, dtype=np.int64)
    path[-1] = best.argmax()
    for place in range(length - 1, 0, -1):
        path[place - 1] = back[place, path[place]]
    return path


def _transitions(classes: int) -> tuple[Floats, Floats]:
    """Return what may follow what between words and within one: 0 where it may, else ``NEVER``; shape (C, C), from -> to."""
    between = np.zeros((classes, classes))
    within = np.full((classes, classes), NEVER)
    within[OUTSIDE, OUTSIDE] = 0.0
    for on in range(2, classes, 2):
        between[:, on] = NEVER
        for before in (on - 1, on):
            between[before, on] = within[before, on] = 0.0
    return between, within


def likely(log_probs: Floats, inner: Bools, real: Bools) -> list[Range]:
    """Return spans that may be there although the most probable path passes them by: each as far as it more likely goes on."""
    found = []
    for place in np.flatnonzero(real & ~inner).tolist():
        kind = int(log_probs[place, 1::2].argmax())
        if log_probs[place, begins(kind)] < np.log(LIKELY):
            continue
        last = place
        while last + 1 < len(real) and real[last + 1]:
            on = log_probs[last + 1, goes_on(kind)]
            if not inner[last + 1] and on < np.log(0.5):
                break
            last += 1
        found.append(Range(place, last, kind))
    return found


def spread(ranges: Sequence[Range], length: int) -> Bools:
    """Return the tokens that `ranges` are about, the ones behind them included, shape (length,)."""
    about = np.zeros(length, dtype=bool)
    for first, last, _ in ranges:
        about[first : last + 2] = True
    return about
