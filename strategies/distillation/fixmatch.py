"""How does a network learn from clean labels and from texts without one? The FixMatch loss and its augmentations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class FixMatchLoss:
    """The loss of one step and its parts.

    Attributes
    ----------
    total : Tensor
        Scalar, ``supervised + lambda_u * unsupervised``; the one to differentiate.
    supervised, unsupervised : Tensor
        Scalars, in nats a sample.
    pseudo_labels : Tensor
        Shape (B_u,), what the network says about the weakly augmented texts.
    mask : Tensor
        Shape (B_u,), 1 where it is sure enough to learn from, else 0.
    """

    total: Tensor
    supervised: Tensor
    unsupervised: Tensor
    pseudo_labels: Tensor
    mask: Tensor


def fixmatch_loss(
    logits_x_lb: Tensor,
    y_lb: Tensor,
    logits_x_ulb_w: Tensor,
    logits_x_ulb_s: Tensor,
    *,
    p_cutoff: float,
    lambda_u: float,
) -> FixMatchLoss:
    """Return the loss of one step.

    Parameters
    ----------
    logits_x_lb : Tensor
        Shape (B, K), of the weakly augmented labelled texts.
    y_lb : Tensor
        Shape (B,), their labels.
    logits_x_ulb_w, logits_x_ulb_s : Tensor
        Shape (B_u, K), of the same unlabelled texts, weakly and strongly augmented. No gradient flows through the weak ones.
    p_cutoff : float
        In [0, 1]: how sure a pseudo-label must be to count.
    lambda_u : float
        Weight of the unlabelled part.

    Raises
    ------
    ValueError
        If weak and strong logits differ in shape.

    References
    ----------
    Sohn et al.: FixMatch, NeurIPS 2020, equations 3 and 4. The mean runs over all B_u texts, the masked ones included.
    """
    if logits_x_ulb_w.shape != logits_x_ulb_s.shape:
        raise ValueError(f"weak logits have shape {tuple(logits_x_ulb_w.shape)}, strong {tuple(logits_x_ulb_s.shape)}.")
    zero = logits_x_lb.new_zeros(())
    supervised = functional.cross_entropy(logits_x_lb, y_lb) if len(y_lb) else zero
    confidence, pseudo_labels = logits_x_ulb_w.detach().softmax(dim=1).max(dim=1)
    mask = (confidence >= p_cutoff).to(logits_x_ulb_s.dtype)
    each = functional.cross_entropy(logits_x_ulb_s, pseudo_labels, reduction="none")
    unsupervised = (each * mask).mean() if len(mask) else zero
    return FixMatchLoss(supervised + lambda_u * unsupervised, supervised, unsupervised, pseudo_labels, mask)


def token_cutoff(mask: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Hide a share of the tokens: little of it is the weak augmentation of a text, much of it the strong one.

    Parameters
    ----------
    mask : Tensor
        Shape (B, T), True where there is a token.
    rate : float
        Share in [0, 1) of tokens to hide. The first token is never hidden, so that no text becomes empty.
    generator : torch.Generator
        On the CPU, so that every machine hides the same tokens.

    Returns
    -------
    Tensor
        Shape (B, T), True where there is a token and it may be seen.

    References
    ----------
    Shen et al.: A Simple but Tough-to-Beat Data Augmentation Approach (Cutoff), 2020, token cutoff.
    """
    if rate <= 0:
        return mask
    keep = (torch.rand(mask.shape, generator=generator) >= rate).to(mask.device)
    keep[:, 0] = True
    return mask & keep
