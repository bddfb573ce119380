# Every target installs what it needs; see scripts/setup.sh, which says what it does and is safe to repeat.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup check fmt lock demo test test-fast test-libvirt test-lab soak lab bench install uninstall clean
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

demo: $(VENV)/.ready ## A VM with a CPU of its own on this host, from nothing (root)
	bash scripts/setup.sh host
	bash scripts/demo.sh

test: ## All levels, each with its time (root; about 30 minutes)
	bash scripts/setup.sh python test lab
	bash scripts/levels.sh check fast libvirt lab

FAST := tests/shell tests/unit tests/property tests/golden tests/conformance
WORKERS := --numprocesses=$$(nproc) --maxprocesses=4 --dist=worksteal # each worker collects everything for itself: a few are enough
test-fast: check ## Everything that needs neither libvirt nor a lab
	$(BIN)/pytest -q $(WORKERS) $(FAST)

test-libvirt: $(VENV)/.ready ## The tests with a real libvirt and QEMU (root; a private libvirtd)
	bash scripts/setup.sh test
	$(BIN)/pytest -q tests/libvirt

test-lab: $(VENV)/.ready ## The tests that run in lab machines on real-time kernels (root; about 10 minutes)
	bash scripts/setup.sh lab
	$(BIN)/pytest -q tests/lab

SOAK := tests/property tests/shell/test_sequences.py tests/shell/test_kills.py tests/libvirt/test_kills.py
soak: $(VENV)/.ready ## What `make test` does of kills and random sequences, hundreds of times more often (root; hours)
	bash scripts/setup.sh test
	$(BIN)/pytest -q -s --soak $(SOAK)

lab: export LAB_COMMAND = $(ARGS)
lab: $(VENV)/.ready ## A shell, or ARGS='pytest -k ...', in a lab machine: MACHINE=2s4n16c KERNEL=6.12
	@bash scripts/setup.sh lab
	@PYTHONPATH=scripts $(BIN)/python -m lab $(if $(MACHINE),--machine $(MACHINE)) $(if $(KERNEL),--kernel $(KERNEL)) $(if $(ARGS),-- "$$LAB_COMMAND")

bench: $(VENV)/.ready ## One benchmark: NAME=startup (without NAME: their names)
	@[ -n "$(NAME)" ] || { echo "make bench NAME=...  with one of:"; ls benchmarks | sed -n 's/^\([a-z].*\)\.py$$/  \1/p'; exit 2; }
	$(BIN)/python benchmarks/$(NAME).py $(ARGS)

install: ## Install the command for the whole host, below /opt/quietcore (root)
	bash scripts/install.sh install

uninstall: ## Remove what `make install` made; VMs, images and books stay (root)
	bash scripts/install.sh uninstall

clean: ## Remove what the build made in the clone
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
