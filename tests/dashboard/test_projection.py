"""Does the map keep what it should: the same at every run, distances in proportion, and a drawn set to the point?"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coral_backend import corpus_arrays
from coral_backend.dashboard.projection import GRID, Projection, for_round, inside, project
from coral_backend.settings import Settings
from coral_backend.types import Round, RoundStatus, Stage


def test_the_directions_of_most_variance_are_kept() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(500, 2)) * [9.0, 3.0]
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0][:2]
    places, explained = project((plane @ turn + rng.normal(size=(500, 40)) * 0.01).astype(np.float32))
    assert explained == pytest.approx(1.0, abs=0.01)
    for axis in (0, 1):
        assert abs(np.corrcoef(places[:, axis], plane[:, axis])[0, 1]) > 0.999
    spread = np.ptp(places, axis=0)
    assert spread.max() == GRID, "the longer side fills the grid"
    assert spread[0] / spread[1] == pytest.approx(np.ptp(plane[:, 0]) / np.ptp(plane[:, 1]), rel=0.02), (
        "one scale for both"
    )


def test_the_same_features_give_the_same_map() -> None:
    features = np.random.default_rng(1).normal(size=(9000, 16)).astype(np.float32)
    first, second = project(features), project(features.copy())
    assert (first[0] == second[0]).all()


@pytest.mark.parametrize("shape", [(0, 8), (1, 8), (5, 1), (3, 0)])
def test_few_samples_or_features_are_no_error(shape: tuple[int, int]) -> None:
    places, explained = project(np.ones(shape, dtype=np.float32))
    assert places.shape == (shape[0], 2)
    assert ((places >= 0) & (places <= GRID)).all()
    assert 0 <= explained <= 1


def test_a_feature_that_is_not_a_number_moves_no_other_point() -> None:
    features = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)
    features[7, 2] = np.inf
    features[8] = np.nan
    assert ((project(features)[0] >= 0) & (project(features)[0] <= GRID)).all()


def test_a_set_holds_exactly_what_lies_inside() -> None:
    places = np.array([[10, 10], [50, 50], [90, 10], [200, 200], [45, 12]])
    found = Projection(np.arange(1, 6), places, 1.0)
    assert inside(found, np.array([[0, 0], [100, 0], [50, 100]])).tolist() == [1, 2, 3, 5]
    notched = np.array([[0, 0], [40, 0], [45, 40], [50, 0], [100, 0], [100, 100], [0, 100]])
    assert inside(found, notched).tolist() == [1, 2, 3], "the notch is outside"


def test_it_is_computed_once_and_anew_when_the_arrays_change(tmp_path: Path) -> None:
    settings = Settings.load({}, model_dir=tmp_path)
    current = Round(1, 1, 1, 0, RoundStatus.DONE, Stage.PUSH, "hash")
    assert for_round(settings, current) is None
    folder = corpus_arrays.round_folder(settings, current)

    def save(seed: int) -> None:
        features = np.random.default_rng(seed).normal(size=(20, 4))
        empty = np.zeros(20)
        answers = SimpleNamespace(probs=np.zeros((20, 2)), losses=empty, p_clean=empty, features=features)
        corpus_arrays.save_arrays(folder, np.arange(20), answers)

    save(0)
    first, kept = for_round(settings, current), folder / "projection.safetensors"
    assert first is not None
    assert kept.exists()
    written = kept.stat().st_mtime_ns
    again = for_round(settings, current)
    assert again is not None
    assert (again.places == first.places).all()
    assert kept.stat().st_mtime_ns == written
    kept.write_bytes(b"damaged")
    healed = for_round(settings, current)
    assert healed is not None
    assert (healed.places == first.places).all()
