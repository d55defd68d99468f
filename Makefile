# Everything a fresh machine with Python 3.11+, git and make needs. `make demo` and `make test` set up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 5000
# Which tests `make test` runs: a folder, or options of pytest.
TESTS ?=

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo test check format bench ui clean

help:
	@echo "make demo    a tour on embedded data, then a table of results and links into the MLflow UI"
	@echo "make test    the default test suite"
	@echo "make check   format, lint, types and floors, as in CI"
	@echo "make bench   speed, each figure as a ratio measured in one run"
	@echo "make ui      the MLflow UI on this folder's store (PORT=$(PORT))"
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

test: $(VENV)/.dev
	pytest -n 2 --dist worksteal $(TESTS)

check: $(VENV)/.dev
	ruff format --check .
	ruff check .
	ty check
	check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	pytest -q tests/test_floors.py tests/test_configs.py

format: $(VENV)/.dev
	ruff format .
	ruff check --fix .

bench: $(VENV)/.dev
	python -m tests.benchmark

ui: $(VENV)/.installed
	labtrail ui --port $(PORT)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
