# Everything runs in an environment of its own, .venv, made from constraints.txt on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_OUT ?= runs/demo

.PHONY: help install demo test test-slow bench-loss bench-data bench-step bench-evaluate pilot lint types format check clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# The standard library makes the environment, pip brings uv, uv installs the rest from the constraints.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "co2ssl needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(INSTALLED)  ## make .venv and install the package and its tools

demo: $(INSTALLED)  ## train MoCo v2 without and with CO2 on embedded data; a table and a page, in four minutes
	$(BIN)/co2ssl demo --out $(DEMO_OUT)

test: $(INSTALLED)  ## the ordinary test suite, on all cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not slow"

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

bench-loss: $(INSTALLED)  ## time and memory of the loss beside the textbook; writes benchmarks/loss/*.json and a plot
	$(BIN)/python -m benchmarks.loss.bench

bench-data: $(INSTALLED)  ## images to views per second beside other libraries; writes benchmarks/data/*.json and a plot
	$(BIN)/python -m benchmarks.data.bench

bench-step: $(INSTALLED)  ## images per second of the whole training step beside other libraries
	$(BIN)/python -m benchmarks.step.bench

bench-evaluate: $(INSTALLED)  ## speed of the protocols beside bare products and scikit-learn
	$(BIN)/python -m benchmarks.evaluate.bench

pilot: $(INSTALLED)  ## rebuild docs/pilot.md and its figures from the committed JSON
	$(BIN)/python -m benchmarks.pilot.report

lint: $(INSTALLED)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)  ## mypy --strict
	$(BIN)/mypy

format: $(INSTALLED)  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test  ## what continuous integration runs

clean:  ## remove the environment and the caches, never a run
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
