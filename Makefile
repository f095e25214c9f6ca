# `make demo` and `make test` set up all they need in .venv. On a machine of your own, `pip install decollapse` will do.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup demo picture bench test test-slow test-all lint clean

help:            ## What can be made
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready  ## A virtual environment with everything the demo and the tests need

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup      ## Train with and without FedDecorr on Fashion-MNIST, three seeds, and write runs/demo/report.html
	$(BIN)/decollapse demo

picture: setup   ## The README's picture, from the published CIFAR-10 runs
	$(BIN)/python scripts/readme_picture.py docs/results/cifar10/resnet20 --of correlation

bench: setup     ## Speed of the loss, the augmentation and the engines, as ratios
	$(BIN)/python benchmarks/loss.py --model
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/engine.py

test: setup lint ## Lint, types, doctests, the README's blocks and the default tests
	$(BIN)/pytest -m "not slow"

test-slow: setup ## Tests that take longer than a few seconds
	$(BIN)/pytest -m slow

test-all: test test-slow  ## Everything CI runs

lint: setup      ## Style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:           ## Remove the environment and caches; runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
