# Every target installs what it needs; see scripts/setup.sh, which says what it does and is safe to repeat.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup check fmt lock test test-fast test-lab lab clean
help: ## Print the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(VENV)/.ready: requirements.lock pyproject.toml scripts/setup.sh
	bash scripts/setup.sh python

setup: $(VENV)/.ready ## Install the virtual environment

check: $(VENV)/.ready ## Lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/.ready ## Format and fix what can be fixed
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: ## Renew requirements.lock (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" requirements.in -o requirements.lock

test-fast: check ## Everything that needs neither libvirt nor a lab
	$(BIN)/pytest -q tests/unit tests/property tests/golden tests/conformance tests/shell

test-lab: $(VENV)/.ready ## The tests that run in lab machines on real-time kernels (root; about 10 minutes)
	bash scripts/setup.sh lab
	$(BIN)/pytest -q tests/lab

lab: export LAB_COMMAND = $(ARGS)
lab: $(VENV)/.ready ## A shell, or ARGS='pytest -k ...', in a lab machine: MACHINE=2s4n16c KERNEL=6.12
	@bash scripts/setup.sh lab
	@PYTHONPATH=scripts $(BIN)/python -m lab $(if $(MACHINE),--machine $(MACHINE)) $(if $(KERNEL),--kernel $(KERNEL)) $(if $(ARGS),-- "$$LAB_COMMAND")

clean: ## Remove what the build made in the clone
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
