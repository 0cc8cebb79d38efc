# Everything runs in a virtual environment of its own, made on first use from pinned versions.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help quickstart test lint types unit test-slow browser chaos week audit clean

help:
	@echo "make quickstart   set up, then run the quickstart: six cells, 36 trials, about two minutes"
	@echo "make test         set up, then lint, type check and the default tests"
	@echo "make test-slow    the tests that take longer"
	@echo "make browser      install Chromium (Debian, Ubuntu; as root), for the tests of the HTML report"
	@echo "make chaos        kill real runs 100 times at random, seeded moments; about twenty minutes on two cores"
	@echo "make week         5,000 stub trials under a kill every few seconds; about as long"
	@echo "make audit        look the pinned versions up for known vulnerabilities (pip-audit; asks its service)"
	@echo "make clean        remove the virtual environment and caches, never results"

quickstart: $(VENV)/ready
	$(BIN)/python -m tune_ablation

test: lint types unit

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready-dev
	$(BIN)/mypy

unit: $(VENV)/ready-dev
	$(BIN)/python -m pytest

test-slow: $(VENV)/ready-dev
	$(BIN)/python -m pytest -m slow

browser:
	command -v chromium || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }

chaos: $(VENV)/ready-dev
	$(BIN)/python -m tests.chaos --kills 100 --seed 1 --out docs/chaos.md

week: $(VENV)/ready-dev
	$(BIN)/python -m tests.chaos.week --trials 5000 --seed 1 --out docs/chaos.md

audit:
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; say which: make PYTHON=...")'
	@echo "Setting up $(VENV) (once; PyTorch with its CUDA libraries is about 5.5 GB) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
