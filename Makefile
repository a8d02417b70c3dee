# Short ways to what one does most. `make` alone lists them.

# Compiled modules are kept, or every start of the program would compile them again.
export PYTHONDONTWRITEBYTECODE :=
# The suite removes what it makes; no second program has to watch it.
export TESTCONTAINERS_RYUK_DISABLED := true

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --disable-pip-version-check
# One line for each library that comes; bash, because a failure before the pipe must count.
BRIEFLY := awk '/^(Collecting|Successfully)/ { print "  " substr($$0, 1, 100); fflush() }'
SHELL := bash
.SHELLFLAGS := -o pipefail -c
# The tests of the webmail need a browser, and are left out without one. certutil tells it of the CA.
BROWSER := test $$(id -u) != 0 || { test -x /usr/bin/chromium && test -x /usr/bin/certutil; } || apt-get install -qq --no-install-recommends chromium libnss3-tools || true
INSTALLED := .venv/installed
INSTALLED_DEV := .venv/installed-dev

.DEFAULT_GOAL := help
.PHONY: help up down test lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(INSTALLED) ## set up what is missing, and start the stack
	@$(BIN)/stackctl doctor --fix --yes
	@$(BIN)/stackctl up

down: $(INSTALLED) ## take the stack down, its mail too
	@$(BIN)/stackctl down --volumes

test: lint ## set up what is missing, and run every check and test
	@$(BIN)/stackctl doctor --fix --yes
	@$(BROWSER)
	@$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder --feature-results build/feature-results.json

lint: $(INSTALLED_DEV) ## ruff and mypy
	@$(BIN)/ruff check
	@$(BIN)/mypy

bench: $(INSTALLED_DEV) ## measure
	@$(BIN)/stackctl doctor --fix --yes
	@$(BIN)/python -m bench

clean: ## remove what these targets have made here; stacks and images stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps say which pyproject.toml was installed last, so that a second call has nothing to do.
$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo 'no virtual environment: on Debian and Ubuntu, `apt-get install python3-venv` first' >&2; exit 1; }
	@echo 'Installing stackctl and its libraries into .venv'
	@$(PIP) -e . | $(BRIEFLY)
	@touch $@

$(INSTALLED_DEV): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo 'no virtual environment: on Debian and Ubuntu, `apt-get install python3-venv` first' >&2; exit 1; }
	@echo 'Installing stackctl, its libraries and the tools of its tests into .venv'
	@$(PIP) -e '.[dev]' | $(BRIEFLY)
	@touch $@ $(INSTALLED)
