# Everything a fresh machine with Python 3.11+, git and make needs. `make demo` and `make test` set up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 5000
# Which tests `make test` runs: a folder, or options of pytest.
TESTS ?=

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo test test-services prove check format bench ui picture commands clean

help:
	@echo "make demo    a tour on embedded data, then a table of results and links into the MLflow UI"
	@echo "make setup   an environment in .venv with all that developers need, some minutes"
	@echo "make test    the default test suite, what a person waits for"
	@echo "make check   format, lint, types, floors and contracts, as in CI"
	@echo "make test-services  tests on a real Slurm, PostgreSQL and Chromium, where they are installed"
	@echo "make prove   long proofs: faults, full sizes, every method; the log is prove.log"
	@echo "make bench   speed, each figure as a ratio measured in one run"
	@echo "make ui      the MLflow UI on this folder's store (PORT=$(PORT))"
	@echo "make picture, make commands   draw docs/house.svg, write docs/commands.md"
	@echo "make format  formats and fixes what can be fixed"

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than 3.11; call make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	labtrail init
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	mlflow run . --env-manager local --experiment-name tour

setup: $(VENV)/.dev

test: $(VENV)/.dev
	pytest -n 2 --dist worksteal $(TESTS)

# PostgreSQL and Slurm in one worker, so that two of them do not starve each other on two cores.
test-services: $(VENV)/.dev
	pytest -n 2 --dist worksteal -m "(cluster or browser) and not slow" tests/cluster tests/browser

prove: $(VENV)/.dev
	pytest -n 2 --dist worksteal --hypothesis-profile prove -m "(slow or sampled) and not gpu" 2>&1 | tee prove.log

check: $(VENV)/.dev
	ruff format --check .
	ruff check .
	ty check
	check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	pytest -q tests/test_floors.py tests/test_configs.py tests/test_contracts.py tests/test_docs.py

format: $(VENV)/.dev
	ruff format .
	ruff check --fix .

bench: $(VENV)/.dev
	python -m tests.benchmark

ui: $(VENV)/.installed
	labtrail ui --port $(PORT)

picture: $(VENV)/.dev
	python -m docs.house docs/house.svg

commands: $(VENV)/.dev
	python -m docs.commands docs/commands.md

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
