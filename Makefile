# Each target makes what it needs with plain python3 and pip, and fails when anything in it fails.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEV := $(VENV)/.dev-installed
DEMO := $(VENV)/.demo-installed
NOX := $(BIN)/nox --non-interactive

.PHONY: venv demo test test-fast test-frameworks lint bench docs clean
.DELETE_ON_ERROR:

venv: $(DEV)

$(DEV): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

$(DEMO): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	touch $@

demo: $(DEMO)
	$(BIN)/otel-aimon demo

# Fast tests first; then real frameworks and real processes in an environment of their own under .nox,
# which is kept between runs.
test: test-fast test-frameworks
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=95

test-fast: $(DEV)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests --ignore=tests/frameworks --ignore=tests/e2e --ignore=tests/cli

test-frameworks: $(DEV)
	$(NOX) --session frameworks oldest genai clients

# Apart from the others, as they are large, slow to build, or pin what another needs newer: vllm, sglang, lmdeploy, torch,
# tensorflow, tritonclient, optimum, servers, llamacpp, mlx, exllamav2, tensorrt.
test-%: $(DEV)
	$(NOX) --session $*

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(DEV)
	$(BIN)/python benchmarks/overhead.py --write docs/overhead.md
	$(BIN)/python benchmarks/sampling.py --write docs/resources.md

docs: $(DEV)
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) .nox .coverage* .mypy_cache .pytest_cache .ruff_cache build dist
