"""Does the features-only tier learn from new labels in seconds, and leave the networks as they are?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from coral_backend.exceptions import ModelFileError
from coral_backend.slm.engine import Corpus, Distilled, Earlier, Model, distil
from tests.slm.test_engine import check
from tests.slm.tiny import make_encoder, quiet, reviews, tiny_config


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def corrected(what: Corpus, rows: tuple[int, ...]) -> Corpus:
    """Return the corpus after a person labelled `rows` rightly."""
    human = what.human_labels.copy()
    human[list(rows)] = np.array(rows) % 2
    return dataclasses.replace(what, human_labels=human)


def earlier_of(found: Distilled, folder: Path) -> Earlier:
    assert found.kept is not None
    return Earlier(found.kept, found.features, folder)


def test_only_what_takes_seconds_is_learned_anew(encoder: str, tmp_path: Path) -> None:
    what, config = reviews(96, wrong=(4, 9, 30, 31), abstained=(7,)), tiny_config(encoder, warmup_epochs=3)
    before = distil(what, config, progress=quiet, save_to=tmp_path / "one")
    told: list[int] = []
    now = corrected(what, (4, 9, 7))
    after = distil(
        now, config, progress=lambda done, *_: told.append(done), save_to=tmp_path / "two",
        earlier=earlier_of(before, tmp_path / "one"),
    )  # fmt: skip
    check_kept(after, now)
    assert told, "it can be stopped"
    assert not {"embedding", "warm-up", "training"} & set(after.seconds), (
        "neither was the corpus read nor a network trained"
    )
    assert after.history == []
    np.testing.assert_array_equal(after.features, before.features)
    assert after.losses[4] == pytest.approx(-np.log(after.probs[4, 0])), "the loss is that of the person's label"
    assert not np.allclose(after.probs, before.probs)
    old, new = (Model.load(tmp_path / name) for name in ("one", "two"))
    for one, other in zip(old.networks, new.networks, strict=True):
        for mine, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
            np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert (new.predict(now.texts)[0].argmax(1) == np.arange(96) % 2).mean() > 0.9
    again = distil(
        corrected(what, (4, 9, 7, 30)), config, progress=quiet, save_to=tmp_path / "three",
        earlier=earlier_of(after, tmp_path / "two"),
    )  # fmt: skip
    assert again.kept is before.kept, "what is kept is still the networks' training"


def test_a_row_is_scored_without_its_own_label(encoder: str, tmp_path: Path) -> None:
    """A label that is put in wrongly must look wrong, as it does after a whole training."""
    what, config = reviews(96, wrong=(), abstained=()), tiny_config(encoder, warmup_epochs=4, learning_rate=3e-3)
    before = distil(what, config, progress=quiet, save_to=tmp_path / "one")
    human = what.human_labels.copy()
    human[10] = 1  # it is of class 0
    now = dataclasses.replace(what, human_labels=human)
    after = distil(now, config, progress=quiet, save_to=tmp_path / "two", earlier=earlier_of(before, tmp_path / "one"))
    assert int(np.argmax(after.losses)) == 10


def test_silent_views_stay_silent(encoder: str, tmp_path: Path) -> None:
    what, config = reviews(48), tiny_config(encoder, frozen_view=False)
    before = distil(what, config, progress=quiet, save_to=tmp_path / "one")
    assert before.kept is not None
    assert before.kept.embeddings.shape == (48, 0)
    now = corrected(what, (3,))
    check_kept(
        distil(now, config, progress=quiet, save_to=tmp_path / "two", earlier=earlier_of(before, tmp_path / "one")), now
    )


def test_a_model_that_cannot_be_read_cannot_serve_again(encoder: str, tmp_path: Path) -> None:
    what, config = reviews(48), tiny_config(encoder)
    before = distil(what, config, progress=quiet, save_to=tmp_path / "one")
    (tmp_path / "one" / "networks.safetensors").write_bytes(b"foreign")
    with pytest.raises(ModelFileError):
        distil(what, config, progress=quiet, save_to=tmp_path / "two", earlier=earlier_of(before, tmp_path / "one"))
    assert not (tmp_path / "two").exists()


def check_kept(found: Distilled, what: Corpus) -> None:
    found.seconds.update(dict.fromkeys(("embedding", "warm-up", "training"), 0.0))
    check(found, what)
    for name in ("embedding", "warm-up", "training"):
        del found.seconds[name]
