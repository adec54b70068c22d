"""How is a trained model kept? Arrays as safetensors, facts as JSON, a manifest of hashes; never anything that could run code."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from coral_backend.exceptions import ModelFileError

Arrays = Mapping[str, npt.NDArray[Any]]

MANIFEST = "manifest.json"
FACTS = "model.json"
FORMAT = 2
"""Version of the layout; another one is refused."""

ALLOWED = (".safetensors", ".json")


def write_model(folder: Path, facts: Mapping[str, Any], tensors: Mapping[str, Arrays]) -> None:
    """Write a model so that `folder` holds either the whole of it or what it held before.

    Parameters
    ----------
    folder : Path
        Replaced when it exists.
    facts : mapping
        JSON values.
    tensors : mapping of str to mapping of str to ndarray
        ``{"networks": {...}}`` becomes ``networks.safetensors``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, arrays in tensors.items():
            save_file(
                {key: np.ascontiguousarray(value) for key, value in arrays.items()}, fresh / f"{name}.safetensors"
            )
        (fresh / FACTS).write_text(json.dumps({"format": FORMAT, **facts}, indent=1, allow_nan=False), encoding="utf-8")
        hashes = {path.name: _sha256(path) for path in sorted(fresh.iterdir())}
        (fresh / MANIFEST).write_text(json.dumps({"format": FORMAT, "sha256": hashes}, indent=1), encoding="utf-8")
        for path in fresh.iterdir():
            _sync(path)
        fresh.chmod(0o755)
        _put_in_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, npt.NDArray[Any]]]]:
    """Read what ``write_model`` wrote, every byte checked against the manifest.

    Raises
    ------
    ModelFileError
        If anything is missing, truncated, altered, of another format, or neither safetensors nor JSON.
    """
    manifest = _json(folder / MANIFEST)
    hashes = manifest.get("sha256")
    if manifest.get("format") != FORMAT or not isinstance(hashes, dict) or FACTS not in hashes:
        raise ModelFileError(
            f"{folder / MANIFEST} has format {manifest.get('format')!r}; this version reads format {FORMAT}. Train again."
        )
    _refuse_foreign(folder, hashes)
    for name, expected in hashes.items():
        found = _sha256(folder / name)
        if found != expected:
            raise ModelFileError(
                f"{folder / name} was truncated or altered: its SHA-256 is {found[:12]}..., the manifest says "
                f"{str(expected)[:12]}.... Restore the file or train again."
            )
    tensors = {Path(name).stem: _tensors(folder / name) for name in hashes if name.endswith(".safetensors")}
    return _json(folder / FACTS), tensors


def _refuse_foreign(folder: Path, hashes: Mapping[str, Any]) -> None:
    """Refuse files that are not listed, not ours by kind, or reached through a path or a link."""
    names = {path.name for path in folder.iterdir()}
    wrong = sorted(n for n in names | set(hashes) if Path(n).suffix not in ALLOWED or Path(n).name != n)
    wrong += sorted(n for n in names if (folder / n).is_symlink() or not (folder / n).is_file())
    if wrong:
        raise ModelFileError(
            f"{folder} has {wrong[0]!r}; a model folder has only .safetensors and .json files. Train again."
        )
    if names != set(hashes) | {MANIFEST}:
        odd = sorted(names ^ (set(hashes) | {MANIFEST}))
        raise ModelFileError(
            f"{folder}: {odd[0]!r} is missing or is not in the manifest. Restore the folder or train again."
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read ({type(error).__name__}). Train again, or give a model's folder."
        ) from error
    except ValueError as error:
        raise ModelFileError(
            f"{path} is no JSON: it was truncated or altered. Restore the folder or train again."
        ) from error
    if not isinstance(found, dict):
        raise ModelFileError(f"{path} holds no JSON object. Restore the folder or train again.")
    return found


def _tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelFileError(f"{path} is no safetensors file ({type(error).__name__}). Train again.") from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read ({type(error).__name__}). Restore the folder or train again."
        ) from error


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Rename `fresh` to `folder`; a folder of that name is moved aside first, and comes back if that fails."""
    if not folder.exists():
        fresh.rename(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.rename(aside / "old")
    try:
        fresh.rename(folder)
    except OSError:
        (aside / "old").rename(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
