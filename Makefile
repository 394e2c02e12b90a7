# Sets itself up: each target makes the virtual environment it needs, once, and again when pyproject.toml changes.
# It needs Python 3.11 or newer with its venv module (Debian, Ubuntu: apt install python3-venv).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

# Of `make soak`: how many rounds, the seed of its faults, one part of it.
ROUNDS ?= 100
SEED ?=
ONLY ?=

.PHONY: help run test lint sim soak fuzz strace foreign bench bench-peers bench-report clean

help:
	@echo "make run    start a server on tidings://127.0.0.1:7433 and http://127.0.0.1:7480"
	@echo "make test   lint, types, import rules, tests"
	@echo "make sim    simulate the server under faults: 20,000 seeds, or ARGUMENTS='--minutes 5'"
	@echo "make soak   kill, stop, starve and cut off real processes; ROUNDS=100 SEED= ONLY="
	@echo "make fuzz   fuzz decoders, a node and data files (MINUTES=5); what was found is in .fuzz/findings"
	@echo "make bench  measure beside other queues, about 25 minutes; make bench-peers installs those (as root)"
	@echo "make clean  remove the virtual environment and caches; data files stay"

run: $(VENV)/.installed
	$(BIN)/tidings serve

# What only computes comes before what starts servers and waits for them, some hundreds, which compile nothing then.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/pytest --numprocesses 2 --dist worksteal
test: lint strace foreign
	$(PYTEST) tests/unit tests/contracts tests/fuzz tests/simulation
	$(PYTEST) tests/integration tests/foreign

# What fails in seconds comes before what takes minutes.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sim: $(VENV)/.installed-dev
	$(BIN)/python -m tests.simulation $(ARGUMENTS)

MINUTES ?= 5
fuzz: $(VENV)/.installed-fuzz
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

soak: $(VENV)/.installed-dev strace
	$(BIN)/python -m tests.soak --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

# Tests of fsyncs need it and are skipped without it. It is installed where that can be done without asking.
strace:
	@command -v strace >/dev/null || { [ "$$(id -u)" = 0 ] && timeout 120 apt-get install -y -qq strace >/dev/null 2>&1; } \
		|| echo "strace is missing, tests that need it are skipped (Debian, Ubuntu: apt install strace)"

# Clients of other makers, for tests of the web doors, which are skipped without them: packages for Node.js, and a
# Chromium without a window. They are installed where that can be done without asking.
PACKAGES := tests/foreign/node_modules/.package-lock.json
foreign:
	@command -v npm >/dev/null || { [ "$$(id -u)" = 0 ] && timeout 300 apt-get install -y -qq nodejs npm >/dev/null 2>&1; } \
		|| echo "Node.js is missing, tests that need it are skipped (Debian, Ubuntu: apt install nodejs npm)"
	@! command -v npm >/dev/null || [ $(PACKAGES) -nt tests/foreign/package.json ] \
		|| (cd tests/foreign && timeout 300 npm ci --no-audit --no-fund --silent && touch node_modules/.package-lock.json) \
		|| echo "packages for Node.js cannot be installed, tests that need them are skipped"
	@command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || command -v google-chrome >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && timeout 600 apt-get install -y -qq --no-install-recommends \
			chromium-headless-shell >/dev/null 2>&1; } \
		|| echo "Chromium is missing, tests that need it are skipped (Debian: apt install chromium-headless-shell)"

# Peers that are not installed are skipped, and strace is only for counting fsyncs.
bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks --output benchmarks.json

# Servers of the peers, for Debian and Ubuntu; the NATS server comes with the Python packages. Where packages start
# their servers when they are installed, those can be stopped again: the benchmarks start their own.
bench-peers:
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
		redis-server rabbitmq-server mosquitto strace

# Writes the tables and the plot of docs/benchmarks.md from the last run.
bench-report: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks --report benchmarks.json

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .import_linter_cache
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

$(VENV)/.installed-bench: pyproject.toml
	@echo "setting up $(VENV) with the clients of the benchmarks' peers"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) '.[all,bench]'
	@touch $@ $(VENV)/.installed

# On top of the development tools, since atheris has wheels for Linux only.
$(VENV)/.installed-fuzz: $(VENV)/.installed-dev
	@$(INSTALL) '.[all,dev,fuzz]'
	@touch $@
