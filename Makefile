# make demo     the whole job on this machine: sandbox facilities, Dagster, simulated scans      (ARGS="--once --json" …)
# make test     every test that needs nothing but this folder, and no long time
# make test-services   the long ones, and those with a real Slurm and a real PostgreSQL (skipped where not installed)
# make fast     as make test, without the tests that go through the real daemon
# make check    format, lint, types, import rules, Dagster definitions
# make clean    remove what make has built and what the tools have cached; the state of an installation (.als) stays
#
# The first of them builds .venv from requirements.lock. PYTHON=python3.12 names another Python (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-services fast check clean
demo: .venv/ready
	@$(BIN)/als demo $(ARGS)

test: .venv/ready
	@$(BIN)/python scripts/run-tests -m "not services" $(ARGS)

test-services: .venv/ready
	@$(BIN)/python scripts/run-tests -m services $(ARGS)

fast: .venv/ready
	@$(BIN)/python scripts/run-tests -m "not daemon and not services" $(ARGS)

check: export VIRTUAL_ENV = $(CURDIR)/.venv
check: export DAGSTER_HOME = $(CURDIR)/.venv/dagster-home
check: export PYTHONWARNINGS = ignore
check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@mkdir -p $(DAGSTER_HOME) && echo "telemetry: {enabled: false}" >$(DAGSTER_HOME)/dagster.yaml
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dg check defs
	$(BIN)/dagster definitions validate -w workspace.yaml

clean:
	rm -rf .venv build dist analysis/build analysis/dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	rm -rf .hypothesis analysis/.hypothesis .tmp_dagster_home_*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ready: requirements.lock pyproject.toml analysis/pyproject.toml
	@bash scripts/check-python "$(PYTHON)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . -e analysis
	@touch $@
