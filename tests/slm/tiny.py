"""A tiny BERT with random weights, made on the spot: what the training tests train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel
from transformers.models.bert.tokenization_bert import BertTokenizer

from coral_backend.slm.engine import Corpus, SLMConfig

WORDS = ["good", "fine", "great", "bad", "poor", "awful", "film", "plot", "the", "a", "very", "quite"]


def make_encoder(folder: Path, **changes: Any) -> str:
    """Write config, tokenizer and safetensors of a two-layer BERT into `folder`; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **(sizes | changes))
    BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


def tiny_config(encoder: str, **changes: Any) -> SLMConfig:
    """A configuration that trains the tiny BERT in a second."""
    defaults: dict[str, Any] = {"epochs": 1, "max_length": 16, "n_folds": 2, "learning_rate": 1e-3}
    return SLMConfig(model=encoder, **(defaults | changes))


def reviews(n: int = 48, *, wrong: tuple[int, ...] = (3, 8), abstained: tuple[int, ...] = (5,)) -> Corpus:
    """Good and bad reviews in turn; labels of `wrong` are swapped."""
    rng = np.random.default_rng(0)
    words = (["bad", "poor", "awful"], ["good", "fine", "great"])
    texts = [f"the {rng.choice(words[i % 2])} film , very {rng.choice(words[i % 2])} {i}" for i in range(n)]
    labels = np.arange(n) % 2
    labels[list(wrong)] = 1 - labels[list(wrong)]
    labels[list(abstained)] = -1
    return Corpus(texts, labels, np.full(n, -1), 2)


def quiet(done: int, total: int, detail: Any) -> None:
    """Report nothing."""
