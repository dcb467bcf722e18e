# Commands for development. `make help` lists them; start with `make run`.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help install run test test-all chaos browsers check format bench lock clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Create .venv and install Tidings (.venv/bin/tidings)

run: install ## Start everything with demo data on http://127.0.0.1:8000
	@exec $(BIN)/tidings serve --demo

# Tests often wait, so three processes keep two cores busy. The suite starts hundreds of servers, so bytecode must be
# cached even where the environment disables it.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
WORKERS ?= 3
PARALLEL = --numprocesses $(WORKERS) --dist loadgroup --durations 50

test: $(VENV)/.installed-dev browsers ## Run the default tier, which takes minutes
	$(PYTEST) $(PARALLEL) $(ARGS)

test-all: $(VENV)/.installed-dev browsers ## Run all tests except the long ones, for nightly runs
	$(PYTEST) $(PARALLEL) -m "not long" $(ARGS)

chaos: $(VENV)/.installed-dev ## Kill servers during large sends and count lost and duplicate messages
	$(PYTEST) tests/chaos tests/adapters/state_machine tests/e2e/test_stream_nodes.py -m "" -s -o faulthandler_timeout=0 $(ARGS)

# Install the browsers for the browser tests where possible (Debian, as root); otherwise those tests are skipped.
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
	$(BIN)/mypy --strict --num-workers 2
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## Format the code and apply ruff's fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## Run the push benchmark with 5 000 recipients
	$(BIN)/tidings bench push --recipients 5000 --json

lock: $(VENV)/.installed-dev ## Update the two lock files
	$(BIN)/uv pip compile pyproject.toml --group build $(LOCK_OPTIONS) --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra chat --group build --group test --group check $(LOCK_OPTIONS) \
		--constraint requirements.lock --output-file requirements-dev.lock

# Lock files contain hashes but no package index, so that the installing user chooses the index.
LOCK_OPTIONS := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-header --no-annotate --quiet --upgrade

clean: ## Remove generated files (not your data)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Tidings needs Python 3.11 or newer; name one with make PYTHON=python3.12' >&2; exit 1; }
	@echo 'Setting up $(VENV) (about a minute the first time)…'
	@$(PYTHON) -m venv $(VENV) \
		|| { echo 'The venv module is missing; on Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }

# The lock file includes the build back end, so that building Tidings downloads only pinned packages.
$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
