# One set-up for everything: .venv with the pinned set, made once and again when the pins change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SWEEP ?= method=lora,qlora rank=8,16,64
ANSWER ?=
# Runs side by side, a thread each: no faster than one after the other with two threads (four runs, in turns: 1.00 and 0.95 of
# the time), but two threads on cores that others use too wait for each other. JOBS=1 measures each run's seconds alone.
JOBS ?= 2
# A process a core, each with one thread: two threads on tiny matrices wait for each other longer than they compute.
# Work stealing gives each process neighbouring tests, so that what a file's tests share is made once, and none waits.
WORKERS ?= auto
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help sweep answer test test-fast test-cluster check docs format pins clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,cluster,trackio,tensorboard]"
	touch $(READY)

sweep: $(READY) ## Fetch the embedded model and data, run the sweep of the README, print its table
	$(BIN)/python -m harness.run -m $(SWEEP)

answer: $(READY) ## Every method on a small encoder, each at its searched learning rate: table, comparisons, page
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m harness.run -m experiment=answer output_dir=runs/answer \
		hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS) $(ANSWER)
	$(BIN)/python -m analysis.table runs/answer rates=chosen compare=true
	$(BIN)/python -m analysis.report runs/answer out=report/answer

test: $(READY) ## Run all tests
	$(PYTEST)

test-fast: $(READY) ## Run the tests that take seconds
	$(PYTEST) -m "not slow"

test-cluster: $(READY) ## Run whole runs of several processes, and sweeps on a real SLURM of one node, as root on Debian
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster

check: $(READY) ## Check format, lint and types, then run the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

docs: $(READY) ## Build the documentation into site/, strictly
	$(BIN)/mkdocs build --strict

format: $(READY) ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

pins: ## Write constraints.txt anew from the newest versions that pyproject.toml allows
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[dev,cluster,trackio,tensorboard]"
	$(BIN)/pip freeze --exclude-editable > constraints.txt

clean: ## Remove the environment and caches; runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
