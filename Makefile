# Everything a new checkout needs: Python >= 3.11, make and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help install study ui test test-studies test-others test-fast lint bench bench-quick clean
.DEFAULT_GOAL := help

help:
	@echo "make study      install, run the quickstart study, print its front"
	@echo "make ui         browse its Pareto front in the MLflow UI"
	@echo "make test       install, then lint, types, layers contract and all tests"
	@echo "make test-fast  the quick tests only"
	@echo "make bench      measure everything that is claimed to be fast, and record it"
	@echo "make bench-quick  the integer engine on a ResNet-20, in under a minute"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable ".[test]"
	@touch $@

study: $(VENV)/.installed
	$(BIN)/bitfront run quickstart
	@echo "or: make ui"

ui: $(VENV)/.installed
	$(BIN)/bitfront ui quickstart

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# In two processes: those of studies wait for workers most of the time.
test: lint
	$(MAKE) --jobs 2 --output-sync=line test-studies test-others

test-studies: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/studies

test-others: $(VENV)/.installed-test
	$(BIN)/python -m pytest --ignore tests/studies

test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow"

bench: $(VENV)/.installed
	$(BIN)/python -m bitfront.benchmarks

bench-quick: $(VENV)/.installed
	$(BIN)/python -m bitfront.benchmarks --quick

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
