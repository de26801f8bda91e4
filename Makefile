# make .venv      the environment alone (hash-locked; quick when nothing changed)
# make test       lint, types, fences and all tests
# make demo       a broker, a master and three agents at work; ONCE=1 ends by itself
# make demo-loss  cuts an agent's link while a task prints, and heals it
# make week       plays an operator's week with the real programs, and prints its transcript
# make chaos      breaks every part on purpose, three times over, and judges what came of it
# make bench      the benchmarks, as ratios to what the machine can do
# make docs       writes the generated pages and files anew; RECORD=1 also runs a mesh for them
# make clean      deletes .venv, caches and build results

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
RUNS := .venv/.runs
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
CODE := schemas broker_client broker_agent broker_master tests tools
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help .venv test lint format docs demo demo-loss bench week chaos lock clean

help:
	@sed -n 's/^# make/  make/p' Makefile

.venv: $(STAMP)

# The stamps are inside .venv, so that deleting the one deletes the others. An environment whose
# making was interrupted has no stamp and is completed by the next run. What a mesh needs to run is
# a part of what developing it needs, at the same versions: `make demo` installs that part alone.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
  echo "make: $(PYTHON) is missing or older than 3.11; name a newer one: make PYTHON=python3.11" >&2; \
  exit 1; }
@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
  echo "make: $(PYTHON) has no venv module; install it: apt install python3-venv" >&2; exit 1; }
@$(BIN)/python -c 'import pip' 2>/dev/null || { echo "making .venv"; $(PYTHON) -m venv --clear .venv; }
@echo "installing $(1), every file checked against its hash"
@$(PIP) install --quiet --require-hashes -r $(1)
@$(PIP) install --quiet --no-build-isolation --no-deps -e .
endef

$(STAMP): requirements/dev.txt pyproject.toml
	$(call install,requirements/dev.txt)
	@touch $(RUNS) $@
	@echo ".venv is ready"

$(RUNS): requirements/master.txt pyproject.toml
	$(call install,requirements/master.txt)
	@touch $@

# Tests marked serial go first: they need the machine for themselves, and the closing line
# of the run that follows is the one that counts nearly all tests. Exit code 5 is "none found".
test: lint
	@echo "== tests that run alone"
	@$(PYTEST) -m "serial and not chaos and not bench" || test $$? -eq 5
	@echo "== ten of the faults of make chaos"
	@$(PYTEST) -m smoke tests/chaos -n $(WORKERS)
	@echo "== all other tests, on $(WORKERS) workers"
	@$(PYTEST) -m "not serial and not chaos and not bench" -n $(WORKERS) --dist loadfile

lint: $(STAMP)
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy"
	@$(BIN)/mypy --strict
	@echo "== import-linter"
	@$(BIN)/lint-imports --no-logo

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP)
	@$(BIN)/python -m tools.docs $(if $(filter 1,$(RECORD)),--record)

demo: $(RUNS)
	@exec $(BIN)/python -m broker_master.demo $(if $(filter 1,$(ONCE)),--once)

demo-loss: $(RUNS)
	@exec $(BIN)/python -m broker_master.demo --loss

bench: $(STAMP)
	@$(BIN)/python -m tests.bench

# An operator's week with the real programs on a terminal of 80 and of 120 columns: its transcript.
week: $(STAMP)
	@$(BIN)/python -m tests.week

# Every fault with three seeds (MESH_CHAOS_SEEDS), the properties with many examples, then the table of what was found: also below
# build/chaos, with the history of each run that broke a promise.
chaos: $(STAMP)
	@rm -rf build/chaos
	@status=0; \
	$(PYTEST) -m "chaos and not serial" tests/chaos -n $(WORKERS) || status=$$?; \
	$(PYTEST) -m "chaos and serial and not true_timers" tests/chaos || status=$$?; \
	$(PYTEST) -m deep --hypothesis-profile=deep tests/unit -n $(WORKERS) || status=$$?; \
	$(BIN)/python -m tests.chaos.report build/chaos; \
	exit $$status

# Needs pip-compile (pip-tools 7.6). The flags keep the address of whichever index or wheel
# folder this machine uses out of the files; tests/test_house.py looks for it again.
LOCK := pip-compile --quiet --generate-hashes --strip-extras --newline=lf --no-header \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host
SERVER := --extra master --extra amqp --extra embedded --build-deps-for editable
DRIVERS := --extra postgresql --extra mysql --extra http --extra sftp
lock:
	$(LOCK) $(UPGRADE) -o requirements/agent.txt pyproject.toml
	$(LOCK) $(UPGRADE) $(SERVER) --extra http -o requirements/master.txt pyproject.toml
	$(LOCK) $(UPGRADE) $(SERVER) $(DRIVERS) --extra dev -o requirements/dev.txt pyproject.toml

clean:
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find $(CODE) examples grafana -name __pycache__ -type d -prune -exec rm -rf {} +
