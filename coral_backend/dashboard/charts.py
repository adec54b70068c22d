"""Which numbers do the charts draw? Histograms, the two Gaussians, reliability, agreement and confusion, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from coral_backend.labels import micro_f1, read_set
from coral_backend.store import browse, figures
from coral_backend.types import Floats

__all__ = [
    "LabelLine",
    "LabelTable",
    "Matrix",
    "by_label",
    "confidence_histogram",
    "history_chart",
    "loss_histogram",
    "matrix",
    "reliability",
]

Chart: TypeAlias = dict[str, Any]

LOSS_BINS, CONFIDENCE_BINS, RELIABILITY_BINS = 48, 25, 10
CURVE_POINTS = 240
TRUSTED = 5
"""A bin of the reliability curve with fewer labels of people says too little to be joined to the line."""

MOST_LABELS = 30
"""Of more labels the pairs that are confused most are listed instead of a table."""

MOST_CONFUSIONS = 25

JUDGED = ("clean", "noisy", "inconsistent")


def loss_histogram(scores: figures.Scores, gmm: Mapping[str, Any]) -> Chart | None:
    """Return the losses by flag with the two Gaussians over them, scaled to counts; None without losses."""
    known = np.isfinite(scores.loss)
    if not known.any():
        return None
    loss, flag = scores.loss[known], scores.flag[known]
    # The last hundredth would squeeze all the others together; it is counted in the last bar.
    top = float(max(np.quantile(loss, 0.995), loss.min() + 1e-6))
    edges = np.linspace(min(0.0, float(loss.min())), top, LOSS_BINS + 1)
    chart = _by_flag(np.minimum(loss, top), flag, edges)
    chart |= {"x_title": "loss of the LLM's label (nats)", "y_title": "tasks"}
    curves = _gaussians(gmm, edges, len(loss))
    return {**chart, "curves": curves} if curves else chart


def _by_flag(values: Floats, flag: Any, edges: Floats) -> Chart:
    series = [
        {"label": name, "values": np.histogram(values[flag == browse.FLAGS.index(name)], edges)[0].tolist()}
        for name in JUDGED
    ]
    return {"edges": [round(float(edge), 6) for edge in edges], "bars": series}


def _gaussians(gmm: Mapping[str, Any], edges: Floats, n: int) -> list[Chart]:
    means, variances, weights = (gmm.get(key) or () for key in ("means", "variances", "weights"))
    if not (len(means) == len(variances) == len(weights) == 2) or min(variances) <= 0:
        return []
    x = np.linspace(edges[0], edges[-1], CURVE_POINTS)
    width = edges[1] - edges[0]
    curves = []
    for name, mean, variance, weight in zip(("clean", "noisy"), means, variances, weights, strict=True):
        y = weight * n * width * np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)
        curves.append({"label": f"Gaussian, {name}", "x": x.round(5).tolist(), "y": y.round(3).tolist()})
    return curves


def confidence_histogram(scores: figures.Scores) -> Chart | None:
    """Return the SLM's out-of-sample confidences by flag."""
    known = np.isfinite(scores.confidence)
    if not known.any():
        return None
    edges = np.linspace(0.0, 1.0, CONFIDENCE_BINS + 1)
    chart = _by_flag(scores.confidence[known], scores.flag[known], edges)
    return {**chart, "x_title": "confidence of the SLM in its label", "y_title": "tasks"}


def reliability(scores: figures.Scores) -> Chart | None:
    """Return how often the SLM is right at each confidence, where people labelled; None where nobody did.

    ``error`` is the expected calibration error: the mean gap between confidence and share right, weighted by tasks.
    """
    known = (scores.right >= 0) & np.isfinite(scores.confidence)
    if not known.any():
        return None
    confidence, right = scores.confidence[known], scores.right[known]
    place = np.minimum((confidence * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    rows = []
    for i in range(RELIABILITY_BINS):
        here = place == i
        if here.any():
            rows.append((float(confidence[here].mean()), float(right[here].mean()), int(here.sum())))
    n = len(confidence)
    return {
        "x": [round(c, 4) for c, _, _ in rows],
        "y": [round(r, 4) for _, r, _ in rows],
        "n": [count for _, _, count in rows],
        "joined": [count >= TRUSTED for _, _, count in rows],
        "total": n,
        "error": round(sum(abs(c - r) * count for c, r, count in rows) / n, 4),
        "x_title": "confidence of the SLM",
        "y_title": "share right",
    }


def history_chart(history: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Return the training's loss by epoch."""
    rows = [row for row in history if isinstance(row.get("loss"), int | float)]
    if len(rows) < 2:
        return None
    return {
        "x": [row.get("epoch", place) for place, row in enumerate(rows, 1)],
        "lines": [{"label": "training loss", "values": [row["loss"] for row in rows]}],
        "x_title": "epoch", "y_title": "loss",
    }  # fmt: skip


@dataclass(frozen=True)
class LabelLine:
    """How one label of sets fares, counted in tasks.

    Attributes
    ----------
    llm, slm, human : int
        Tasks whose set has the label.
    checked : int
        Tasks with a person's set; of these:
    precision, recall : mapping of str to float or None
        By ``llm`` and ``slm``: share of the tasks it gives the label to whose person does too; share of the tasks whose person gives it
        that it gives it to. None without such tasks.
    """

    label: str
    llm: int
    slm: int
    human: int
    checked: int
    precision: Mapping[str, float | None]
    recall: Mapping[str, float | None]


@dataclass(frozen=True)
class LabelTable:
    """The lines of all labels, and how the sets agree as wholes with people's: on how many of `checked` tasks, and their micro-F1."""

    lines: Sequence[LabelLine]
    checked: int
    exact: Mapping[str, float | None]
    f1: Mapping[str, float | None]


def by_label(scores: figures.Scores, labels: Sequence[str]) -> LabelTable:
    """Return how LLM and SLM do on each label of sets, against people."""
    people = [i for i, said in enumerate(scores.human) if read_set(said) is not None]
    said = {"llm": scores.llm, "slm": scores.slm}
    true = [scores.human[i] for i in people]
    checked = {who: [sets[i] for i in people] for who, sets in said.items()}
    has = {who: [set(read_set(one) or ()) for one in sets] for who, sets in {**said, "human": scores.human}.items()}
    return LabelTable(
        [_label_line(label, has, people) for label in labels],
        len(people),
        {who: _share([one == other for one, other in zip(sets, true, strict=True)]) for who, sets in checked.items()},
        {who: micro_f1(sets, true) for who, sets in checked.items()},
    )


def _label_line(label: str, has: Mapping[str, Sequence[set[str]]], people: Sequence[int]) -> LabelLine:
    right = {who: [label in has["human"][i] for i in people if label in has[who][i]] for who in ("llm", "slm")}
    found = {who: [label in has[who][i] for i in people if label in has["human"][i]] for who in ("llm", "slm")}
    counts = {who: sum(label in one for one in sets) for who, sets in has.items()}
    return LabelLine(
        label, counts["llm"], counts["slm"], counts["human"], len(people),
        {who: _share(hits) for who, hits in right.items()}, {who: _share(hits) for who, hits in found.items()},
    )  # fmt: skip


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


@dataclass(frozen=True)
class Matrix:
    """How two annotators' labels meet.

    Attributes
    ----------
    labels : sequence of str
        Of both axes; those that the config no longer has come last.
    cells : sequence of sequence of int
        Row by row; empty where there are more than ``MOST_LABELS`` labels: nobody can read that.
    same : float or None
        Share on the diagonal; None without tasks.
    confusions : sequence of (str, str, int)
        The pairs of different labels that meet most often, with how often; empty where `cells` are shown.
    """

    labels: Sequence[str]
    cells: Sequence[Sequence[int]]
    total: int
    same: float | None
    highest: int
    confusions: Sequence[tuple[str, str, int]] = ()


def matrix(counts: Mapping[tuple[str, str], int], labels: Sequence[str]) -> Matrix:
    """Return `counts` as a table over `labels` and whatever else was said."""
    others = sorted({name for pair in counts for name in pair} - set(labels))
    names = [*labels, *others]
    large = len(names) > MOST_LABELS
    cells = [] if large else [[counts.get((a, b), 0) for b in names] for a in names]
    total = sum(counts.values())
    hits = sum(count for (a, b), count in counts.items() if a == b)
    off = [count for (a, b), count in counts.items() if a != b]
    often = sorted(((a, b, n) for (a, b), n in counts.items() if a != b), key=lambda pair: (-pair[2], pair[:2]))
    pairs = often[:MOST_CONFUSIONS] if large else []
    return Matrix(names, cells, total, hits / total if total else None, max(off, default=0), pairs)
