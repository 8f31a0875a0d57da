# make demo     the whole job on this machine: sandbox facilities, Dagster, simulated scans      (ARGS="--once --json" …)
# make test     every test that needs no service; those that want Slurm, RabbitMQ, PostgreSQL or Chromium skip with a reason
# make check    format, lint, types, import rules, Dagster definitions
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test fast check clean
demo: .venv/ready
	@$(BIN)/als demo $(ARGS)

.venv/ready: requirements.lock pyproject.toml analysis/pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . -e analysis
	@touch $@
