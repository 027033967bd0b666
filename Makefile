# Each target does its own set-up: a virtual environment in the checkout.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.PHONY: train test bench quality results soak sweep format
.DEFAULT_GOAL := train

train: .venv/installed
	$(BIN)/python train.py --flagfile=recipes/fast.flags $(ARGS)

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(ARGS)

bench: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks.bench $(ARGS)

quality: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks.quality $(ARGS)

results: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks.results $(if $(ONLY),--only $(ONLY)) $(ARGS)

soak: .venv/installed
	$(BIN)/python tests/soak.py $(ARGS)

sweep: .venv/installed
	$(BIN)/python tests/sweep.py $(ARGS)

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "charlm needs Python 3.11 to 3.13: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@
