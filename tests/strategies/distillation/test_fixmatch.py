"""Is the FixMatch loss the one of the paper? By hand on four rows."""

import math

import pytest
import torch

from strategies.distillation.fixmatch import fixmatch_loss, token_cutoff


def logits(*rows: tuple[float, float]) -> torch.Tensor:
    """Logits whose softmax is `rows`."""
    return torch.log(torch.tensor(rows))


def test_four_rows_by_hand() -> None:
    x_lb = logits((0.8, 0.2), (0.4, 0.6))
    x_ulb_w = logits((0.95, 0.05), (0.7, 0.3), (0.1, 0.9), (0.02, 0.98))
    x_ulb_s = logits((0.5, 0.5), (0.5, 0.5), (0.25, 0.75), (0.9, 0.1))
    loss = fixmatch_loss(x_lb, torch.tensor([0, 0]), x_ulb_w, x_ulb_s, p_cutoff=0.8, lambda_u=0.5)
    supervised = -(math.log(0.8) + math.log(0.4)) / 2
    unsupervised = (
        -(math.log(0.5) + math.log(0.75) + math.log(0.1)) / 4
    )  # the second row is not sure, but it is counted
    assert loss.pseudo_labels.tolist() == [0, 0, 1, 1]
    assert loss.mask.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert float(loss.supervised) == pytest.approx(supervised)
    assert float(loss.unsupervised) == pytest.approx(unsupervised)
    assert float(loss.total) == pytest.approx(supervised + 0.5 * unsupervised)


def test_no_gradient_flows_through_the_weak_texts() -> None:
    weak = logits((0.95, 0.05)).requires_grad_()
    strong = logits((0.5, 0.5)).requires_grad_()
    lb = logits((0.5, 0.5)).requires_grad_()
    loss = fixmatch_loss(lb, torch.tensor([1]), weak, strong, p_cutoff=0.5, lambda_u=1.0)
    gradients = torch.autograd.grad(loss.total, [lb, strong, weak], allow_unused=True)
    assert gradients[0].tolist()[0] == pytest.approx([0.5, -0.5])
    assert gradients[1].tolist()[0] == pytest.approx([-0.5, 0.5])
    assert gradients[2] is None


def test_without_unlabelled_texts_it_is_cross_entropy() -> None:
    lb = logits((0.8, 0.2))
    loss = fixmatch_loss(lb, torch.tensor([0]), lb[:0], lb[:0], p_cutoff=0.9, lambda_u=1.0)
    assert float(loss.total) == pytest.approx(-math.log(0.8))
    assert loss.mask.shape == (0,)


def test_without_labelled_texts_only_the_pseudo_labels_count() -> None:
    strong = logits((0.5, 0.5))
    none = torch.zeros(0, dtype=torch.long)
    loss = fixmatch_loss(strong[:0], none, logits((1.0, 1e-9)), strong, p_cutoff=0.9, lambda_u=1.0)
    assert float(loss.total) == pytest.approx(math.log(2))


def test_weak_and_strong_must_be_the_same_texts() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\), strong \(1, 2\)"):
        fixmatch_loss(
            torch.zeros(1, 2), torch.tensor([0]), torch.zeros(2, 2), torch.zeros(1, 2), p_cutoff=0.9, lambda_u=1.0
        )


def test_token_cutoff_hides_a_share_but_never_the_first() -> None:
    mask = torch.ones(200, 50, dtype=torch.bool)
    mask[:, 30:] = False
    seen = token_cutoff(mask, 0.3, torch.Generator().manual_seed(0))
    assert seen[:, 0].all()
    assert not seen[:, 30:].any()
    assert float(seen[:, 1:30].float().mean()) == pytest.approx(0.7, abs=0.02)
    again = token_cutoff(mask, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(seen, again)
    assert token_cutoff(mask, 0.0, torch.Generator()) is mask
