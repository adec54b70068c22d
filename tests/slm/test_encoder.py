"""Are encoders loaded safely, and is any text embedded?"""

from pathlib import Path

import numpy as np
import pytest
import torch

from coral_backend.exceptions import ModelFileError
from coral_backend.slm.encoder import EMBEDDED, Encoder, clean_text, embedded_folder, length_batches, mean_pool
from tests.slm.tiny import make_encoder


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return Encoder.load(EMBEDDED, 128)


def test_the_embedded_model_is_found_and_has_safetensors() -> None:
    assert (embedded_folder() / "model.safetensors").is_file()


def test_sentences_that_mean_the_same_are_near(minilm: Encoder) -> None:
    one, other, far = minilm.embed(["How do I reset my password?", "I forgot my login code.", "The soup was cold."])
    assert one @ other > one @ far + 0.2


def test_embeddings_are_of_length_one_in_the_order_of_the_texts(minilm: Encoder) -> None:
    texts = ["short", "a much longer text about " + "many things " * 30, "", "mid sized text here"]
    rows = minilm.embed(texts)
    assert rows.shape == (4, minilm.width)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(minilm.embed(texts[3:])[0], rows[3], atol=0.02)


@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "a\ud800b", "x" * 100_000, "word " * 20_000, "\u202e\u200b", "😀" * 500]
)
def test_any_string_can_be_read(minilm: Encoder, text: str) -> None:
    tokens = minilm.tokenise([text])[0]
    assert 1 <= len(tokens) <= 128
    assert np.isfinite(minilm.embed([text])).all()


def test_progress_can_stop_the_embedding(minilm: Encoder) -> None:
    def stop(done: int, total: int) -> None:
        raise InterruptedError(f"{done}/{total}")

    with pytest.raises(InterruptedError, match="1/1"):
        minilm.embed(["one"], stop)


def test_no_texts(minilm: Encoder) -> None:
    assert minilm.embed([]).shape == (0, minilm.width)


def test_the_halves_together_are_the_whole(tmp_path: Path) -> None:
    encoder = Encoder.load(make_encoder(tmp_path / "bert", num_hidden_layers=3), 16)
    encoder.half = False
    ids, mask = encoder.pad(encoder.tokenise(["the good film", "bad"]))
    whole = encoder.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    for frozen in (0, 1, 2, 99):
        halves = encoder.halves(frozen)
        assert halves.lower is not None
        out = halves.upper(halves.lower(ids, mask), mask)
        torch.testing.assert_close(out[mask], whole[mask], atol=1e-5, rtol=1e-5)
        assert sum(1 for _ in halves.upper.parameters()) > 0


def test_an_encoder_of_another_build_is_trained_whole(tmp_path: Path) -> None:
    encoder = Encoder.load(make_encoder(tmp_path / "bert"), 16)
    encoder.model.config.model_type = "something-new"
    halves = encoder.halves(1)
    ids, mask = encoder.pad(encoder.tokenise(["good"]))
    assert halves.lower is None
    assert halves.upper(ids, mask).shape == (1, ids.shape[1], encoder.width)


def test_texts_are_cut_to_what_the_encoder_can_read(tmp_path: Path) -> None:
    assert Encoder.load(make_encoder(tmp_path / "bert"), 512).max_length == 64


@pytest.mark.parametrize("content", ["none", "pickle", "truncated", "config only"])
def test_folders_that_are_no_safe_model_are_refused(tmp_path: Path, content: str) -> None:
    folder = Path(make_encoder(tmp_path / "bert"))
    weights = folder / "model.safetensors"
    if content == "none":
        folder = tmp_path / "nothing-here"
        folder.mkdir()
    elif content == "pickle":
        torch.save({}, folder / "pytorch_model.bin")
        weights.unlink()
    elif content == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    with pytest.raises(ModelFileError, match="CORAL_SLM_MODEL"):
        Encoder.load(str(folder), 16)


def test_texts_are_cleaned_before_the_tokenizer_sees_them() -> None:
    assert clean_text("a\ud800b\x00c", 8) == "a?b c"
    assert len(clean_text("x" * 100_000, 8)) == 8 * 24


def test_batches_hold_each_text_once_and_similar_lengths() -> None:
    lengths = [5, 1, 9, 9, 2, 7]
    batches = length_batches(lengths, 2)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths, reverse=True)


def test_pooling_leaves_out_what_is_masked() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [0.0], [0.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_pool(hidden, mask).tolist() == [[2.0], [0.0]]
