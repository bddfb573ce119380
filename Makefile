# Every target installs what it needs; see scripts/setup.sh, which says what it does and is safe to repeat.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup check fmt lock test test-fast clean
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

clean: ## Remove what the build made in the clone
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
