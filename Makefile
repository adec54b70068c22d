# Two commands: `make demo` shows CORAL at work, `make test` checks it. Both make the environments that they need.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test bench lint format lock clean

ARGS ?=
BENCH_DATA ?= ../shared/data

# The first Python >= 3.11 that runs; `make test PYTHON=/path/to/python` takes another. Looked for only when it is needed.
find_python = for python in $(PYTHON) $(if $(PYTHON),,python3.11 python3.12 python3.13 python3.14 python3 python); do \
    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; done; \
  [ -n "$$python" ] || { echo "CORAL needs Python 3.11 or newer; found none $(if $(PYTHON),in PYTHON=$(PYTHON),on the PATH) \
($$(python3 -V 2>&1 || true)). Install one, or say where it is: make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python3.11" >&2; exit 1; }; \
  "$$python" -c 'import ensurepip, venv' 2>/dev/null \
  || { echo "$$($$python -V) lacks the venv module. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }

# An environment is complete when it holds a file named after the content of its lock: a second run does nothing,
# a changed lock installs again, and a fresh checkout's time stamps do not matter.
hash = $(shell cat $(1) | sha256sum | cut -c1-16)
INSTALLED    := .venv/.installed-$(call hash,requirements.lock requirements-dev.lock)
PROJECT      := .venv/.project-$(call hash,pyproject.toml)
LABEL_STUDIO := .venv-labelstudio/.installed-$(call hash,requirements-labelstudio.lock)

# --no-deps: the locks are complete, and label-studio-ml's own pins (Flask 1.1.2) must not be followed.
pip_install = -m pip install --no-deps --disable-pip-version-check

BENCH_EXTRA = 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"])'

help:
	@echo 'make demo [ARGS="..."]   start everything, label a project in a real Label Studio, show the result'
	@echo 'make test [ARGS="..."]   lint, types and all tests; ARGS go to pytest'
	@echo 'make bench [ARGS="..."]  find wrong labels in the files of BENCH_DATA, beside what others find; hours on a CPU'
	@echo 'make install             only make the environment: . .venv/bin/activate, then `coral --help`'
	@echo 'make lint                ruff and mypy only'
	@echo 'make format              let ruff format the code'
	@echo 'make lock [ARGS=--upgrade]  resolve pyproject.toml again and rewrite the lock files'
	@echo 'make clean               remove the environments and caches; the data in .coral stays'

install: $(PROJECT)

demo: $(PROJECT) $(LABEL_STUDIO)
	@exec .venv/bin/python -m coral_backend.cli demo $(ARGS)

test: lint $(LABEL_STUDIO)
	.venv/bin/python -m pytest $(ARGS)

# Files without LLM labels are left out by the benchmark itself. Without cleanlab its entries stay empty.
bench: $(PROJECT)
	@ls $(BENCH_DATA)/*.csv.gz >/dev/null 2>&1 || { echo "No *.csv.gz in $(BENCH_DATA). Say where they are: make bench BENCH_DATA=/folder" >&2; exit 1; }
	@.venv/bin/python -c 'import cleanlab.filter' 2>/dev/null \
	  || .venv/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock $$(.venv/bin/python -c $(BENCH_EXTRA)) \
	  || echo "cleanlab cannot be installed: its entries will be empty." >&2
	.venv/bin/python -m benchmarks.quality $(BENCH_DATA)/*.csv.gz --markdown benchmarks/RESULTS.md $(ARGS)

lint: $(PROJECT)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: $(PROJECT)
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

lock: $(INSTALLED)
	.venv/bin/python .ci/lock.py $(ARGS)

clean:
	rm -rf .venv .venv-labelstudio build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): | .venv/bin/python
	@echo "Installing $$(cat requirements.lock requirements-dev.lock | grep -c ==) packages into .venv (once; some minutes, about 2 GB on the disk)"
	.venv/bin/python $(pip_install) -r requirements.lock -r requirements-dev.lock
	@# An index may answer with torch's CUDA build, whose libraries are packages of their own.
	@.venv/bin/python -c 'import torch' 2>/dev/null \
	  || { echo "This torch needs its CUDA libraries: installing them."; \
	       .venv/bin/python -m pip install -c requirements.lock "$$(grep '^torch==' requirements.lock)"; }
	@rm -f .venv/.installed-*
	@touch $@

$(PROJECT): $(INSTALLED)
	.venv/bin/python $(pip_install) --quiet --no-build-isolation --editable .
	@rm -f .venv/.project-*
	@touch $@

$(LABEL_STUDIO): | .venv-labelstudio/bin/python
	@echo "Installing Label Studio into .venv-labelstudio (once; some minutes, about 1 GB on the disk)"
	.venv-labelstudio/bin/python $(pip_install) -r requirements-labelstudio.lock
	@rm -f .venv-labelstudio/.installed-*
	@touch $@

%/bin/python:
	@$(find_python); echo "Making $* with $$("$$python" -V)"; "$$python" -m venv $*
