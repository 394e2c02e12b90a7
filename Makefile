# Sets itself up: each target makes the virtual environment it needs, once, and again when pyproject.toml changes.
# It needs Python 3.11 or newer with its venv module (Debian, Ubuntu: apt install python3-venv).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

.PHONY: help run test lint sim bench clean

help:
	@echo "make run    start a server on tidings://127.0.0.1:7433 (data in tidings.db)"
	@echo "make test   lint, types, import rules, tests"
	@echo "make sim    simulate the server under faults"
	@echo "make bench  measure messages per second, end to end"
	@echo "make clean  remove the virtual environment and caches; data files stay"

run: $(VENV)/.installed
	$(BIN)/tidings serve

test: lint
	$(BIN)/pytest

# What fails in seconds comes before what takes minutes.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sim: $(VENV)/.installed-dev
	$(BIN)/python -m tests.simulation

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/end_to_end.py

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) '.[all]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml
	@echo "setting up $(VENV) with the development tools"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) '.[all,dev]'
	@touch $@ $(VENV)/.installed
