# make test      everything that CI runs: install into .venv if missing, lint, types, tests
# make slow      tests that need minutes: peak memory of merging
# make bench     benchmarks, printed as ratios measured in one run
PYTHON ?= python3
BIN := .venv/bin

.PHONY: test slow lint types bench clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	touch $@

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest

slow: .venv/installed
	$(BIN)/pytest -m slow

bench: .venv/installed
	$(BIN)/python tests/benchmarks/merging_memory.py
	$(BIN)/python tests/benchmarks/step_time.py

clean:
	rm -rf .venv
