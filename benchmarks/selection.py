"""How long does choosing demonstrations from a large corpus take, and how well do they stand for it? ``python -m benchmarks.selection``.

Made-up features, seeded: each class is a mixture of groups of unequal size. The cost is the mean distance of a sample to the nearest
chosen one of its class, beside that of a random choice; every candidate counts, not only those that were clustered.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coral_backend.types import Floats, Ints
from strategies.demonstration import DEMONSTRATIONS

GROUPS = 20
"""Of each class."""


def corpus(n: int, n_classes: int, width: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
    """Return features (n, width), float32, and labels (n,)."""
    labels = rng.integers(n_classes, size=n)
    centres = rng.normal(size=(n_classes, GROUPS, width)).astype(np.float32)
    sizes = rng.dirichlet(np.ones(GROUPS))
    groups = rng.choice(GROUPS, size=n, p=sizes)
    noise = rng.normal(scale=0.5, size=(n, width)).astype(np.float32)
    return np.asarray(centres[labels, groups] + noise), labels


def cost(features: Floats, labels: Ints, chosen: Ints) -> float:
    """Return the mean distance of a sample to the nearest chosen one of its class."""
    total = 0.0
    for k in np.unique(labels):
        rows, mine = features[labels == k], features[chosen[labels[chosen] == k]]
        squares = (rows**2).sum(1)[:, None] + (mine**2).sum(1)[None, :] - 2 * rows @ mine.T
        total += float(np.sqrt(np.maximum(squares.min(axis=1), 0.0)).sum())
    return total / len(labels)


def run(n: int, n_classes: int, width: int, chosen: int, seed: int = 0) -> dict[str, float]:
    """Return seconds and costs."""
    features, labels = corpus(n, n_classes, width, np.random.default_rng(seed))
    select = DEMONSTRATIONS.get("distilled_selection")
    began = time.perf_counter()
    found = select(
        texts=[f"text {i}" for i in range(n)],  # equal ones are one
        labels=labels,
        eligible=np.ones(n, dtype=bool),
        features=features,
        n=chosen,
        n_classes=n_classes,
        rng=np.random.default_rng(seed),
    )
    seconds = time.perf_counter() - began
    rng = np.random.default_rng(seed + 1)
    each = chosen // n_classes
    by_chance = np.concatenate([rng.choice(np.flatnonzero(labels == k), each, replace=False) for k in range(n_classes)])
    return {
        "samples": n,
        "chosen": len(found),
        "seconds": seconds,
        "cost": cost(features, labels, found),
        "cost_of_a_random_choice": cost(features, labels, by_chance),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--chosen", type=int, default=100)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(argv)
    report = run(options.samples, options.classes, options.width, options.chosen)
    for name, value in report.items():
        print(f"{name:26} {value:10.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
