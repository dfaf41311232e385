# Everything from a bare checkout: `make demo`, `make test`. Needs Python 3.11+ and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SECONDS_SINCE = printf '%s: %s s\n' "make $@" "$$(( $$(date +%s) - $$start ))"

.PHONY: demo test test-slow test-gpu test-oldest lint format docs speed dev clean
.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras; pyproject.toml is all they depend on, the sources are linked.
$(VENV)/installed-%: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable \
		"$(if $(filter run,$*),.,.[$*])"
	@touch $@

demo: $(VENV)/installed-run  ## restore a bundled damaged photo N ways, keep the best, report to runs/demo
	@start=$$(date +%s); $(BIN)/restoration-guide demo && $(SECONDS_SINCE)

test: $(VENV)/installed-test  ## the default tests: no network, no GPU, under six minutes on two cores
	@start=$$(date +%s); $(BIN)/python -m pytest && $(SECONDS_SINCE)

test-slow: $(VENV)/installed-dev  ## the tests marked slow
	@start=$$(date +%s); $(BIN)/python -m pytest -m "slow and not gpu" && $(SECONDS_SINCE)

test-gpu: $(VENV)/installed-dev  ## the tests marked gpu, on a machine with CUDA
	@start=$$(date +%s); $(BIN)/python -m pytest -m gpu && $(SECONDS_SINCE)

test-oldest:  ## the default tests with the oldest supported version of every dependency
	$(PYTHON) -m venv --clear .venv-oldest
	$(PYTHON) .ci/oldest.py > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --editable ".[test]" \
		--constraint .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pytest

lint: $(VENV)/installed-dev  ## ruff, pyright and the layers of the architecture
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: $(VENV)/installed-dev  ## let ruff fix and lay out the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/installed-docs  ## the documentation as HTML in docs/_build; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build

speed: $(VENV)/installed-eval  ## the judge's speed beside its peers, in one table
	$(BIN)/python -m benchmarks.judge_speed

dev: $(VENV)/installed-dev  ## everything for development, and the hooks that run before a commit
	$(BIN)/pre-commit install

clean:  ## remove the environments and what runs left behind
	rm -rf $(VENV) .venv-oldest runs build dist .pytest_cache .ruff_cache */.ruff_cache .hypothesis
