"""Does the pool find out which view knows something, and is it calibrated?"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import log_softmax

from strategies.distillation.blend import fit_blend

Array: TypeAlias = npt.NDArray[Any]


def two_views(n: int, k: int = 3) -> tuple[list[Array], Array]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, k, n)
    knows = 2.0 * np.eye(k)[labels] + rng.normal(size=(n, k))
    noise = rng.normal(size=(n, k)) * 3
    return [np.asarray(log_softmax(v, axis=1)) for v in (knows, noise)], labels


def test_the_view_that_knows_gets_the_weight() -> None:
    views, labels = two_views(3000)
    blend = fit_blend(views, labels, np.ones(3000), (0.5, 0.5))
    assert blend.weights[0] == pytest.approx(2.0, abs=0.3)  # log-odds of the model that made it: 2 / variance 1
    assert blend.weights[1] == pytest.approx(0.0, abs=0.05)


def test_the_blend_is_calibrated() -> None:
    views, labels = two_views(6000)
    blend = fit_blend(views, labels, np.ones(6000), (0.5, 0.5))
    probs = np.exp(blend.log_probs(views))
    sure, right = probs.max(1), probs.argmax(1) == labels
    for low in (0.5, 0.7, 0.9):
        inside = (sure > low) & (sure <= low + 0.1)
        assert right[inside].mean() == pytest.approx(sure[inside].mean(), abs=0.05)


def test_few_samples_stay_near_the_prior() -> None:
    views, labels = two_views(2)
    blend = fit_blend(views, labels, np.ones(2), (0.6, 0.4))
    assert blend.weights == pytest.approx([0.6, 0.4], abs=0.4)
    assert np.isfinite(blend.log_probs(views)).all()


def test_weights_are_never_negative_and_rows_sum_to_one() -> None:
    views, labels = two_views(500)
    blend = fit_blend([views[0], -views[0]], labels, np.ones(500), (0.5, 0.5))
    assert (blend.weights >= 0).all()
    np.testing.assert_allclose(np.exp(blend.log_probs(views)).sum(1), 1.0)
