"""Is a model written whole or not at all, and is anything else refused?"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from coral_backend.exceptions import ModelFileError
from coral_backend.slm.model_files import FACTS, FORMAT, MANIFEST, read_model, write_model

FACTS_IN = {"n_classes": 2, "name": "ü"}
TENSORS: dict[str, dict[str, npt.NDArray[Any]]] = {
    "weights": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "more": {"b": np.array([1], dtype=np.int64)},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "models" / "m1", FACTS_IN, TENSORS)
    return tmp_path / "models" / "m1"


def test_what_is_written_is_read(folder: Path) -> None:
    facts, tensors = read_model(folder)
    assert facts == FACTS_IN | {"format": FORMAT}
    np.testing.assert_array_equal(tensors["weights"]["a"], TENSORS["weights"]["a"])
    assert sorted(p.name for p in folder.iterdir()) == [MANIFEST, FACTS, "more.safetensors", "weights.safetensors"]
    assert [p.name for p in folder.parent.iterdir()] == ["m1"]


def test_a_second_write_replaces_the_first(folder: Path) -> None:
    write_model(folder, {"n_classes": 9}, {"only": TENSORS["more"]})
    facts, tensors = read_model(folder)
    assert facts["n_classes"] == 9
    assert list(tensors) == ["only"]
    assert [p.name for p in folder.parent.iterdir()] == ["m1"]


def test_a_failed_write_leaves_the_old_model(folder: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_model(folder, {"loss": float("nan")}, TENSORS)
    assert read_model(folder)[0]["n_classes"] == 2
    assert [p.name for p in folder.parent.iterdir()] == ["m1"]


def truncate(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def alter(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def remove(folder: Path) -> None:
    (folder / "more.safetensors").unlink()


def add_pickle(folder: Path) -> None:
    (folder / "extra.pkl").write_bytes(b"\x80\x04.")


def add_unlisted(folder: Path) -> None:
    (folder / "extra.json").write_text("{}")


def link_outside(folder: Path) -> None:
    path = folder / "more.safetensors"
    moved = folder.parent / "elsewhere.safetensors"
    path.rename(moved)
    path.symlink_to(moved)


def no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def broken_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def list_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[]")


def newer_format(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"format": FORMAT + 1}))


def path_in_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"]["../other.json"] = "0"
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage",
    [
        truncate, alter, remove, add_pickle, add_unlisted, link_outside, no_manifest, broken_manifest, list_manifest,
        newer_format, path_in_manifest,
    ],
)  # fmt: skip
def test_damage_is_refused_with_what_to_do(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(ModelFileError, match=r"rain again"):
        read_model(folder)


def test_a_listed_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    import hashlib

    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / FACTS).write_text("{}")
    (folder / "weights.safetensors").write_bytes(b"\x80\x04 a pickle")
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "sha256": hashes}))
    with pytest.raises(ModelFileError, match="no safetensors"):
        read_model(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_model(tmp_path / "none")
