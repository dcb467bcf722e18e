# Every command a person needs. `make run` is the first one; `make help` lists them.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help install run test chaos browsers check format bench lock clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Set up .venv with Tidings in it (.venv/bin/tidings)

run: install ## Start everything with demo data on http://127.0.0.1:8000
	@exec $(BIN)/tidings serve --demo

test: $(VENV)/.installed-dev browsers ## Install what the tests need and run them all
	$(BIN)/python -m pytest $(ARGS)

chaos: $(VENV)/.installed-dev ## Kill servers in the middle of large sends and count what was lost or repeated
	TIDINGS_CHAOS=long $(BIN)/python -m pytest tests/chaos tests/contract/machine -s $(ARGS)

# The two browsers that the browser tests drive, where that is possible; else the tests say that they are skipped.
browsers:
	@missing=; for it in chromium firefox-esr; do command -v $$it >/dev/null || missing="$$missing $$it"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing$$missing for the browser tests"; export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null && missing=; \
	fi; \
	if [ -n "$$missing" ]; then \
		echo "Not installed:$$missing. Tests that need them are skipped; on Debian: apt-get install$$missing" >&2; \
	fi

check: $(VENV)/.installed-dev ## Format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## Let ruff format and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## Send one event update to 5 000 recipients and print the figures
	$(BIN)/tidings bench push --recipients 5000 --json

lock: $(VENV)/.installed-dev ## Resolve the dependencies again into the two lock files
	$(BIN)/uv pip compile pyproject.toml --group build $(LOCK_OPTIONS) --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group build --group test --group check $(LOCK_OPTIONS) \
		--constraint requirements.lock --output-file requirements-dev.lock

# Hashes and nothing about where packages come from: whoever installs chooses the index.
LOCK_OPTIONS := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-header --no-annotate --quiet --upgrade

clean: ## Remove what the other targets made (not your data)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Tidings needs Python 3.11 or newer; name one with make PYTHON=python3.12' >&2; exit 1; }
	@echo 'Setting up $(VENV) (about a minute the first time)…'
	@$(PYTHON) -m venv $(VENV) \
		|| { echo 'The venv module is missing; on Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }

# The build backend is in the lock, so that building our own package downloads nothing that is not pinned.
$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
