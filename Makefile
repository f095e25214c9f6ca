# `make demo` and `make test` set up all they need in .venv. On a machine of your own, `pip install decollapse` will do.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup demo picture bench bench-peers test test-slow test-all lint clean

help:            ## What can be made
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready  ## A virtual environment with everything the demo and the tests need

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,flower]'
	touch $@

demo: setup      ## Train with and without FedDecorr on Fashion-MNIST, three seeds, and write runs/demo/report.html
	$(BIN)/decollapse demo

picture: setup   ## The README's picture, from the published CIFAR-10 runs
	$(BIN)/python scripts/readme_picture.py docs/results/cifar10/resnet20 --of correlation

bench: setup bench-peers  ## This package beside its peers, in hours: tables in docs/results/speed (BENCH_DATA=data/cifar10)
	mkdir -p docs/results/speed
	$(BIN)/python benchmarks/loss.py --model
	$(BIN)/python benchmarks/loss.py --n 16 64 256 512 --d 64 256 1280 4096 --out docs/results/speed/e.json
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/engine.py
	for job in c d a b; do $(COMPARE) --job $$job || exit 1; done
	$(COMPARE) --job b --name b_release --rounds 3 --sides decollapse release release_lean

BENCH_DATA ?= data/cifar10
COMPARE = $(BIN)/python benchmarks/peers/compare.py --data $(BENCH_DATA)
PEERS := flower pfl fluke

bench-peers: $(PEERS:%=benchmarks/.venvs/%/.ready)  ## An environment for each peer, below benchmarks/.venvs

benchmarks/.venvs/%/.ready: benchmarks/requirements-%.txt
	$(PYTHON) -m venv benchmarks/.venvs/$*
	benchmarks/.venvs/$*/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

test: setup lint ## Lint, types, doctests, the README's blocks and the default tests
	$(BIN)/pytest -n auto -m "not slow"

test-slow: setup ## Tests that take longer than a few seconds
	$(BIN)/pytest -m slow

test-all: test test-slow  ## Everything CI runs

lint: setup      ## Style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:           ## Remove the environment and caches; runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
