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


def fixmatch_sets_loss(
    logits_x_lb: Tensor,
    y_lb: Tensor,
    logits_x_ulb_w: Tensor,
    logits_x_ulb_s: Tensor,
    *,
    clean_lb: Tensor,
    open_ulb: Tensor,
    p_cutoff: float,
    lambda_u: float,
) -> FixMatchLoss:
    """Return the loss of one step where each text has K questions with yes or no.

    Parameters
    ----------
    logits_x_lb : Tensor
        Shape (B, K), of the weakly augmented texts with answers that are believed.
    y_lb, clean_lb : Tensor
        Shape (B, K): 1 for yes and 0 for no, float; bool, which of these answers are believed.
    logits_x_ulb_w, logits_x_ulb_s : Tensor
        Shape (B_u, K), of texts with answers that are not believed, weakly and strongly augmented. No gradient flows through the
        weak ones.
    open_ulb : Tensor
        Shape (B_u, K), bool: which questions have no believed answer.
    p_cutoff : float
        In [0.5, 1]: a pseudo-answer counts from this probability of yes, or of no, on.
    lambda_u : float
        Weight of the unlabelled part.

    Returns
    -------
    FixMatchLoss
        ``pseudo_labels`` and ``mask`` have shape (B_u, K). Questions are summed and texts averaged: a text with many questions
        has as much to say about each of them as one with few.

    Raises
    ------
    ValueError
        If shapes differ that must not.

    References
    ----------
    Sohn et al.: FixMatch, NeurIPS 2020, equations 3 and 4, with the binary cross-entropy of each question.
    """
    if logits_x_lb.shape != y_lb.shape or logits_x_lb.shape != clean_lb.shape:
        raise ValueError(f"logits have shape {tuple(logits_x_lb.shape)}, answers {tuple(y_lb.shape)}.")
    if not logits_x_ulb_w.shape == logits_x_ulb_s.shape == open_ulb.shape:
        raise ValueError(f"weak logits have shape {tuple(logits_x_ulb_w.shape)}, strong {tuple(logits_x_ulb_s.shape)}.")
    zero = logits_x_lb.new_zeros(())
    answers = functional.binary_cross_entropy_with_logits(logits_x_lb, y_lb, reduction="none")
    supervised = (answers * clean_lb).sum(1).mean() if len(y_lb) else zero
    yes = logits_x_ulb_w.detach().sigmoid()
    pseudo_labels = (yes >= 0.5).to(logits_x_ulb_s.dtype)
    mask = (open_ulb & (torch.maximum(yes, 1 - yes) >= p_cutoff)).to(logits_x_ulb_s.dtype)
    each = functional.binary_cross_entropy_with_logits(logits_x_ulb_s, pseudo_labels, reduction="none")
    unsupervised = (each * mask).sum(1).mean() if len(mask) else zero
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
