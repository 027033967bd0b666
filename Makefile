# Each target does its own set-up: a virtual environment in the checkout.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip
# A plain path to this folder: `import charlm` then works in the folder above it,
# too, where `charlm` is the name of the clone.
export PIP_CONFIG_SETTINGS := editable_mode=compat
# Of `make train`: with CORPUS=my.txt, settings that suit its size, in runs/my.
# For several files, ARGS gives the folder: it comes later, and counts.
SETTINGS = $(if $(CORPUS),--recipe=auto --corpus='$(CORPUS)' \
  --run_dir='runs/$(basename $(notdir $(CORPUS:/=)))',--recipe=fast)
# CUDA's libraries come where NVIDIA's driver is; CUDA=0 leaves them out.
ifeq ($(shell uname -sm),Linux x86_64)
CUDA ?= $(if $(wildcard /proc/driver/nvidia/version)$(shell command -v nvidia-smi),1,0)
endif
WITH_CUDA := $(if $(filter 1,$(CUDA)),.venv/cuda-installed)

.PHONY: train test check-all bench gpu-check quality results soak compare format
.PHONY: lock check-next english
.DEFAULT_GOAL := train

train: .venv/installed $(WITH_CUDA)
	$(BIN)/python train.py $(SETTINGS) $(ARGS)

english: .venv/installed $(WITH_CUDA)
	$(BIN)/python -m benchmarks.english runs/texts/english.txt $(PACKAGES)
	$(BIN)/python train.py --recipe=english --corpus=runs/texts/english.txt \
	  --run_dir=runs/english $(ARGS)

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(ARGS)

check-all: .venv/installed
	$(BIN)/python -m pytest -m '' $(ARGS)

# May fail. TensorFlow's newest pre-release brings the Keras that it asks for.
check-next:
	$(PYTHON) -m venv --clear .venv-next
	mkdir .venv-next/charlm
	cp pyproject.toml README.md LICENSE .venv-next/charlm
	sed '/^  keras>/d; s/,<[0-9.]*$$/.dev0/' setup.cfg > .venv-next/charlm/setup.cfg
	.venv-next/bin/python -m pip install --quiet '.venv-next/charlm[test]'
	-.venv-next/bin/python -m pytest $(ARGS)

# Torch and JAX come beside what is installed, and change nothing of it.
bench: .venv/installed $(WITH_CUDA)
	$(PIP) install --quiet --constraint .venv/constraints.txt \
	  --no-build-isolation --editable '.[bench]'
	$(BIN)/python -m benchmarks.bench $(ARGS)

gpu-check: .venv/installed $(WITH_CUDA)
	$(BIN)/python -m benchmarks.gpu_check $(ARGS) | tee gpu-check.txt

quality: .venv/installed
	$(BIN)/python -m benchmarks.quality $(ARGS)

results: .venv/installed
	$(if $(TABLE),$(BIN)/python -m benchmarks.trials results/$(TABLE).toml $(ARGS))
	$(BIN)/python -m benchmarks.results

soak: .venv/installed
	$(BIN)/python tests/soak.py $(ARGS)

compare: .venv/installed
	$(BIN)/python tests/compare.py $(BASE) $(ARGS)

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One version of each package for all Pythons and machines. The wheels need glibc
# 2.28.
lock:
	$(PYTHON) -m venv --clear .venv/lock
	.venv/lock/bin/python -m pip install --quiet uv
	echo setuptools | .venv/lock/bin/uv pip compile --quiet --upgrade \
	  --universal --python-version 3.11 --fork-strategy fewest \
	  --generate-hashes --custom-compile-command 'make lock' \
	  --extra test setup.cfg - --output-file requirements.lock
	.venv/lock/bin/uv pip compile --quiet --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header \
	  --no-annotate --constraint requirements.lock --extra cuda setup.cfg \
	  --output-file .venv/lock/cuda.txt
	echo "# CUDA's libraries, written by: make lock" > requirements-cuda.lock
	awk '/^[^ ]/ {cuda = /^nvidia-/} cuda' .venv/lock/cuda.txt >> requirements-cuda.lock
	rm -r .venv/lock

# Cleared first: a folder of another Python breaks, and no older package may stay.
.venv/installed: requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "charlm needs Python 3.11 to 3.13: make PYTHON=python3.12"; exit 2; }
	@echo "Installing TensorFlow and the other libraries into .venv: 2.5 GB, a few minutes"
	$(PYTHON) -m venv --clear .venv
ifeq ($(shell uname),Linux)
	$(PIP) install --quiet --require-hashes --only-binary :all: --requirement requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
else
	$(PIP) install --quiet --editable '.[test]'
endif
	$(PIP) freeze --all --exclude-editable > .venv/constraints.txt
	touch $@

# After .venv/installed, which clears the folder.
.venv/cuda-installed: requirements-cuda.lock .venv/installed
	@echo "CUDA's libraries for this machine's GPU: 12 wheels, 4.2 GB (CUDA=0 leaves them out)"
	$(PIP) install --quiet --no-deps --require-hashes --only-binary :all: --requirement requirements-cuda.lock
	touch $@
