"""The rule of imports (docs/ARCHITECTURE.md 2), read off the source: rooms, heavy libraries, the environment, pickle."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "_wsgi.py", *ROOT.glob("coral_backend/**/*.py"), *ROOT.glob("strategies/**/*.py")]
    if path.exists()
)

LEAVES = {"controls", "labels", "types", "exceptions", "settings", "logs"}
ROOMS = {"llm", "slm", "labelstudio", "store"}
BELOW_ROUNDS = {
    "annotate", "batch_clerk", "batches", "corpus_arrays", "costs", "demos", "effects", "follow", "heartbeat", "kept_views", "kinds", "probe", "span_arrays",
    "questions", "review", "slices", "summary", "sync", "task_prompt", "unanswered",
}  # fmt: skip
"""Modules and packages beside ``rounds`` that are parts of it."""

TORCH = ("coral_backend/slm/", "strategies/distillation/")
ENVIRONMENT = ("coral_backend/settings.py",)
PASSES_THE_ENVIRONMENT_ON = (
    "coral_backend/services/",
    "coral_backend/cli",
    "coral_backend/demo/",
    "coral_backend/up.py",
    "coral_backend/worker.py",
    "coral_backend/slm/__init__.py",
)
"""They start children, which get a copy of the environment, or tell a library how to wait; none reads settings from it."""


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the dotted names that an import statement asks for; ``from a import b`` gives ``a.b``."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide the room"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def all_imports(name: str) -> set[str]:
    return {target for node in ast.walk(tree(name)) for target in imported(node)}


def imports_at_start(name: str) -> set[str]:
    """Return what importing the module imports: not the bodies of functions, and nothing for type checkers only."""
    found: set[str] = set()
    stack: list[ast.AST] = [tree(name)]
    while stack:
        node = stack.pop()
        found.update(imported(node))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack.extend(node.orelse)
            continue
        stack.extend(ast.iter_child_nodes(node))
    return found


def room(name: str) -> str:
    """Return the first part below ``coral_backend`` of a path or a dotted name."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if len(parts) > 1 else ""


def rooms_imported(name: str) -> set[str]:
    names = [target for target in all_imports(name) if target.split(".")[0] == "coral_backend"]
    return {room(target) for target in names} - {""}


def allowed(name: str) -> set[str] | None:
    """Return the rooms that the file may import; None for those above the jobs, which may import all below."""
    here = room(name)
    if here in LEAVES:
        return LEAVES
    if here in ROOMS | {"services"}:
        return LEAVES | {here}
    if here == "rounds" or here in BELOW_ROUNDS:
        return LEAVES | ROOMS | BELOW_ROUNDS
    if here == "queue":
        return LEAVES | {"services"}
    return None


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("coral_backend/")])
def test_imports_run_one_way(name: str) -> None:
    permitted = allowed(name)
    top = {"app", "cli", "dashboard", "demo"} - {room(name)}
    forbidden = rooms_imported(name) - permitted if permitted is not None else set()
    if room(name) not in {"cli", "demo", "app", "dashboard", "__main__"}:
        forbidden |= rooms_imported(name) & top
    assert not forbidden, f"{name} imports {sorted(forbidden)}; see docs/ARCHITECTURE.md 2"


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("strategies/")])
def test_strategies_import_nothing_of_coral_backend(name: str) -> None:
    assert not {target for target in all_imports(name) if target.split(".")[0] == "coral_backend"}


@pytest.mark.parametrize("name", FILES)
def test_torch_is_imported_where_models_are(name: str) -> None:
    if name.startswith(TORCH):
        return
    heavy = {target.split(".")[0] for target in imports_at_start(name)} & {"torch", "transformers"}
    assert not heavy, f"{name} imports {heavy} at its start; only {TORCH} may"


@pytest.mark.parametrize("name", FILES)
def test_label_studio_ml_is_imported_in_one_place(name: str) -> None:
    if name != "coral_backend/backend.py":  # importing it sets the start method of all processes
        assert not {target for target in all_imports(name) if target.split(".")[0] == "label_studio_ml"}


@pytest.mark.parametrize("name", FILES)
def test_the_environment_is_read_in_one_place(name: str) -> None:
    if name.startswith(ENVIRONMENT):
        return
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute | ast.Name):
            word = node.attr if isinstance(node, ast.Attribute) else node.id
            assert word not in {"getenv", "environb"}, f"{name}:{node.lineno} reads the environment"
            if word == "environ":
                assert name.startswith(PASSES_THE_ENVIRONMENT_ON), f"{name}:{node.lineno} reads the environment"


@pytest.mark.parametrize("name", FILES)
def test_nothing_that_runs_code_is_loaded(name: str) -> None:
    modules = {target.split(".")[0] for target in all_imports(name)}
    assert not modules & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"torch.load", "np.load", "numpy.load", "yaml.load", "eval", "exec"}


@pytest.mark.parametrize("name", FILES)
def test_sql_stays_in_the_store(name: str) -> None:
    if not name.startswith("coral_backend/store/"):
        assert not {
            target for target in all_imports(name) if target.split(".")[0] in {"sqlalchemy", "sqlite3", "psycopg"}
        }


def test_what_we_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    providers = metadata.packages_distributions()
    modules = {target.split(".")[0] for name in FILES for target in all_imports(name)}
    foreign = modules - set(sys.stdlib_module_names) - {"coral_backend", "strategies", "_wsgi"}
    undeclared = {
        module for module in foreign if not {canonicalize_name(d) for d in providers.get(module, [])} & declared
    }
    assert not undeclared, f"imported, but not in pyproject.toml's dependencies: {sorted(undeclared)}"


def test_the_lock_has_what_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for lock, lines in (
        (["requirements.lock"], project["dependencies"] + project["optional-dependencies"]["postgres"]),
        (["requirements.lock", "requirements-dev.lock"], project["optional-dependencies"]["dev"]),
    ):
        text = "".join((ROOT / name).read_text(encoding="utf-8") for name in lock)
        pins = {
            canonicalize_name(line.partition("==")[0]): line.partition("==")[2]
            for line in text.splitlines()
            if not line.startswith("#")
        }
        for line in lines:
            wanted = Requirement(line)
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), line


def test_the_locks_name_versions_only() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        for line in lock.read_text(encoding="utf-8").splitlines():
            assert line.startswith("#") or ("==" in line and "+" not in line and "@" not in line), (
                f"{lock.name}: {line}"
            )


@pytest.mark.parametrize("module", ["coral_backend.cli", "coral_backend.queue", "coral_backend.store"])
def test_a_quick_start_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(' '.join({{'torch', 'transformers', 'sklearn'}} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
