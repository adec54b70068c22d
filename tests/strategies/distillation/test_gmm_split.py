"""Does the mixture divide losses as two Gaussians by hand would?"""

import json
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from strategies.distillation.gmm_split import SPLITTERS, Split, gmm_split

Array: TypeAlias = npt.NDArray[Any]

SAVED_LOSSES = np.array([0.05, 0.08, 0.1, 0.11, 0.12, 0.15, 0.18, 0.2, 0.22, 0.3, 1.9, 2.1, 2.4, 2.0, 0.09, 0.14])


def by_hand(loss: float, split: Split) -> float:
    """Bayes with two normal densities."""
    density = [
        w / np.sqrt(2 * np.pi * v) * np.exp(-((loss - m) ** 2) / (2 * v))
        for m, v, w in zip(split.means, split.variances, split.weights, strict=True)
    ]
    return float(density[0] / sum(density))


def test_golden_components_of_a_saved_loss_vector() -> None:
    split = gmm_split(SAVED_LOSSES, seed=0)
    clean, noisy = SAVED_LOSSES[SAVED_LOSSES < 1], SAVED_LOSSES[SAVED_LOSSES > 1]
    extra = 5e-4 * np.ptp(SAVED_LOSSES) ** 2  # the regularisation of the scaled variances
    assert split.means == pytest.approx((clean.mean(), noisy.mean()), abs=1e-3)
    assert split.variances == pytest.approx((clean.var() + extra, noisy.var() + extra), rel=0.02)
    assert split.weights == pytest.approx((12 / 16, 4 / 16), abs=1e-3)
    assert (split.p_clean > 0.99).tolist() == (SAVED_LOSSES < 1).tolist()


def test_posterior_is_bayes_between_the_means() -> None:
    rng = np.random.default_rng(1)
    losses = np.concatenate([rng.exponential(0.3, 300), rng.normal(1.2, 0.5, 100)]).clip(0)
    split = gmm_split(losses, seed=0)
    for loss in np.linspace(*split.means, 7):
        assert split.posterior(np.array([loss]))[0] == pytest.approx(by_hand(float(loss), split), abs=1e-9)


def test_tails_do_not_turn_round() -> None:
    rng = np.random.default_rng(2)
    losses = np.concatenate([rng.normal(1.0, 0.1, 400), rng.normal(1.5, 1.5, 100)])
    split = gmm_split(losses, seed=0)
    assert split.posterior(np.array([-50.0]))[0] == split.posterior(np.array([split.means[0]]))[0]
    assert split.posterior(np.array([50.0]))[0] == split.posterior(np.array([split.means[1]]))[0]


@pytest.mark.parametrize("name", SPLITTERS.names())
def test_contract_range_shape_and_determinism(name: str) -> None:
    losses = np.random.default_rng(3).exponential(1.0, 200)
    first, second = (SPLITTERS.get(name)(losses, seed=5) for _ in range(2))
    assert first.p_clean.shape == (200,)
    assert ((first.p_clean >= 0) & (first.p_clean <= 1)).all()
    np.testing.assert_array_equal(first.p_clean, second.p_clean)
    assert first.means[0] <= first.means[1]


@pytest.mark.parametrize("losses", [np.zeros(5), np.full(3, 7.0), np.array([0.0, 1e-9])])
def test_one_heap_is_all_clean(losses: Array) -> None:
    split = gmm_split(losses, seed=0)
    assert split.p_clean.tolist() == [1.0] * len(losses)
    assert split.weights == (1.0, 0.0)
    assert split.posterior(np.array([9.0, np.nan]))[0] == 1.0


def test_two_losses_are_enough() -> None:
    assert gmm_split(np.array([0.1, 3.0]), seed=0).p_clean == pytest.approx([1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (np.array([1.0]), "N >= 2"),
        (np.zeros((2, 2)), "shape"),
        (np.array([1.0, np.nan, np.inf]), "2 of 3 losses are not finite"),
    ],
)
def test_unusable_losses_are_refused(losses: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gmm_split(losses, seed=0)


def test_components_survive_json() -> None:
    split = gmm_split(SAVED_LOSSES, seed=0)
    restored = Split.from_json(json.loads(json.dumps(split.to_json())), np.zeros(0))
    np.testing.assert_array_equal(restored.posterior(SAVED_LOSSES), split.p_clean)
    assert np.isnan(restored.posterior(np.array([np.nan]))).all()
