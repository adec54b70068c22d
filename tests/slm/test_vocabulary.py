"""Is an encoder that cannot read a corpus told apart from one that can, and does a multilingual one work in its place?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import XLMRobertaConfig, XLMRobertaModel

from coral_backend import doctor
from coral_backend.doctor import Status
from coral_backend.exceptions import SettingsError
from coral_backend.slm.encoder import Encoder, embedded_folder
from coral_backend.slm.engine import Corpus, distil
from coral_backend.slm.vocabulary import SAMPLED, doubt, share_of
from coral_backend.store import Store
from coral_backend.types import Sample
from tests import filled_store as filled
from tests.slm.tiny import make_encoder, quiet, tiny_config

MARATHI = [
    "हा चित्रपट खूप छान आहे",
    "हा चित्रपट खूप वाईट आहे",
    "कथा छान आहे",
    "कथा वाईट आहे",
    "अभिनय खूप छान",
    "अभिनय खूप वाईट",
] * 8


def make_multilingual(folder: Path) -> str:
    """Write a tiny XLM-RoBERTa with random weights, and a unigram tokenizer that knows these words; return its path."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = sorted({word for text in MARATHI for word in text.split()})
    pieces = [*((f"▁{word}", -3.0) for word in words), *((letter, -9.0) for letter in sorted({*"".join(words)}))]
    tokenizer = Tokenizer(models.Unigram([*((name, 0.0) for name in special), *pieces], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=66, pad_token_id=1,
    )  # fmt: skip
    XLMRobertaModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("texts", "reads"),
    [
        (["How do I reset my password?", "The soup was cold."], True),
        (["Ley de medidas urgentes para la reforma del mercado de trabajo"], True),
        (MARATHI, False),
        (["这部电影非常好看，我很喜欢它的故事"], False),
        (["Привет, как дела сегодня?"], False),
        ([], True),
        (["", "123 !?", "\ud800"], True),
    ],
)
def test_the_embedded_encoder_says_what_it_cannot_read(texts: list[str], reads: bool) -> None:
    share = share_of(embedded_folder(), texts)
    assert share is not None
    assert 0 <= share <= 1
    assert (doubt(share) is None) is reads


def test_one_language_of_two_is_seen_in_a_long_corpus() -> None:
    mixed = ["good film " * 10] * 2 * SAMPLED + [MARATHI[0]] * 2 * SAMPLED
    share = share_of(embedded_folder(), mixed)
    assert share == pytest.approx(0.5, abs=0.01)
    assert "cannot read 50% of these texts" in str(doubt(share or 0.0))


def test_a_multilingual_encoder_reads_what_the_english_one_does_not(tmp_path: Path) -> None:
    name = make_multilingual(tmp_path / "xlm")
    encoder = Encoder.load(name, 32)
    assert encoder.readable_share(MARATHI) > 0.9
    assert np.isfinite(encoder.embed(MARATHI)).all()
    labels = np.array([0, 1] * 24)
    found = distil(
        Corpus(MARATHI, labels, np.full(48, -1), 2), tiny_config(name), progress=quiet, save_to=tmp_path / "model"
    )
    assert not any("cannot read" in note for note in found.notes)
    assert (found.probs.argmax(1) == labels).mean() > 0.9, "words and all views together"


def test_a_round_notes_that_its_encoder_cannot_read(tmp_path: Path) -> None:
    corpus = Corpus(MARATHI, np.array([0, 1] * 24), np.full(48, -1), 2)
    config = tiny_config(make_encoder(tmp_path / "bert"))
    found = distil(corpus, config, progress=quiet, save_to=tmp_path / "model")
    assert "cannot read 100% of these texts" in found.notes[0]
    assert "CORAL_SLM_MODEL" in found.notes[0]


def test_the_doctor_asks_the_tokenizer_of_the_project(tmp_path: Path) -> None:
    settings = filled.settings_in(tmp_path)
    store = Store(settings.store_url)
    project = filled.save_project(store)
    assert doctor._language(settings, store, project)[0] is Status.SKIP
    store.put_samples(project.id, [Sample(i, text) for i, text in enumerate(MARATHI, 1)])
    status, found, cure = doctor._language(settings, store, project)
    assert (status, "cannot read 100% of these texts" in found, "CORAL_SLM_MODEL" in str(cure)) == (
        Status.WARN,
        True,
        True,
    )
    known = settings.model_copy(update={"slm_model": make_multilingual(tmp_path / "xlm")})
    assert doctor._language(known, store, project)[0] is Status.OK
    nowhere = settings.model_copy(update={"slm_model": "nobody/nothing"})
    assert doctor._language(nowhere, store, project)[0] is Status.SKIP
    store.close()


def test_the_doctor_says_what_is_wrong_with_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no folder here and no name at Hugging Face"):
        doctor._encoder_folder(str(tmp_path / "misspelt" / "model"))
    (tmp_path / "tokenizer.json").write_text('{"model": "broken"}')
    with pytest.raises(SettingsError, match=r"tokenizer\.json is no tokenizer"):
        share_of(tmp_path, MARATHI)
