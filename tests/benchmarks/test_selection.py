"""Is the choice of demonstrations measured against chance, on samples of their own class?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks import selection


def test_medoids_stand_for_the_corpus_better_than_chance(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    selection.main(["--samples", "3000", "--classes", "3", "--width", "16", "--chosen", "60", "--json", str(out)])
    report = json.loads(out.read_text())
    assert (report["samples"], report["chosen"]) == (3000, 60)
    assert report["seconds"] > 0
    assert report["cost"] < report["cost_of_a_random_choice"]


def test_the_cost_is_the_distance_within_the_class() -> None:
    features = np.array([[0.0], [3.0], [10.0], [10.0]])
    assert selection.cost(features, np.array([0, 0, 1, 1]), np.array([0, 2])) == 0.75
