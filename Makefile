# make test      install into .venv if missing, lint, types, and all tests that are quick: about 8 minutes on two cores
# make slow      the other tests; CI runs both
# make rehearsal the test of full-size ViT-B/32, from downloads to a prediction, with seconds and memory shown
# make search    the main job: 24 configurations of the shipped space on mini8, into studies/
# make results   the paper's tables and figures on mini8, and RESULTS.md; at most 90 minutes, the same command goes on
# make faults    searches killed 20 times, their disk filled, their MLflow server lost, and resumed; about 15 minutes
# make bench     benchmarks, printed as ratios measured in one run
PYTHON ?= python3
# Where this is set, every process of a search would compile all that it imports anew: seconds become a minute.
export PYTHONDONTWRITEBYTECODE :=
BIN := .venv/bin

.PHONY: test slow rehearsal search results lint types bench faults clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	-$(BIN)/python -m compileall -qq -j 0 .venv/lib > /dev/null  # as pip would, but on all cores
	touch $@

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not rehearsal" --durations=15  # a process a core

slow: .venv/installed
	$(BIN)/pytest -n 2 --dist loadfile -m slow --durations=15

rehearsal: .venv/installed
	$(BIN)/pytest -m rehearsal -s tests/test_rehearsal.py

search: .venv/installed
	$(BIN)/intervmerge-search --space mini_interventions.yaml

results: .venv/installed
	$(BIN)/intervmerge reproduce all --minutes 90 --measured RESULTS.json
	cp studies/paper-mini8/RESULTS.md RESULTS.md
	cp studies/paper-mini8/RESULTS.json RESULTS.json

faults: .venv/installed
	$(BIN)/python tests/faults.py

bench: .venv/installed
	$(BIN)/python tests/benchmarks/merging_memory.py
	$(BIN)/python tests/benchmarks/step_time.py --model vit_b32
	$(BIN)/python tests/benchmarks/step_time.py --model mini8 --tasks 8
	$(BIN)/python tests/benchmarks/engine_cost.py
	$(BIN)/python tests/benchmarks/trial_time.py
	$(BIN)/python tests/benchmarks/search_cost.py
	$(BIN)/python tests/benchmarks/sameness.py
	$(BIN)/python tests/benchmarks/tangent_step.py

clean:
	rm -rf .venv
