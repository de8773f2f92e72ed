# make example   make an environment, then verify the shipped example
# make test      make an environment with the test tools, then lint, check types and run the tests
# make install   make an environment only
# make gpu       run the tests that need a CUDA device; without one they are skipped
# make performance   measure bounds and domains a second on this machine
# make audit     run verinn on the soundness suite; another verifier: TOOL=maraboupy ARGS="--python its/python"
# make compare       run verinn and the verifiers installed beside it on a list of instances: LIST=suite.csv
#
# The environment is .venv; it is made again only when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PINS := pyproject.toml constraints.txt
DIGITS := benchmarks/digits
# Tests run side by side; two workers fit the smallest machine that this is meant for.
WORKERS ?= 2

# What `make compare` runs.
LIST ?= $(DIGITS)

# What `make audit` runs, and on what.
TOOL ?= verinn
SUITE ?= soundness

.PHONY: example test install lint slow gpu performance compare audit clean

example: $(VENV)/.installed
	@echo "== could a small change make the network misread a digit? here it can not: unsat"
	$(BIN)/verinn verify $(DIGITS)/onnx/digits_dense.onnx $(DIGITS)/vnnlib/dense_1440_unsat.vnnlib --timeout 60
	@echo "== within a larger change it can: sat, and the misread image"
	$(BIN)/verinn verify $(DIGITS)/onnx/digits_dense.onnx $(DIGITS)/vnnlib/dense_1440_sat.vnnlib --timeout 60

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not gpu"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

gpu: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m gpu -rs

install: $(VENV)/.installed

performance: $(VENV)/.installed
	$(BIN)/python -m benchmarks.performance

audit: $(VENV)/.installed
	$(BIN)/verinn audit run $(SUITE) --tool $(TOOL) --jobs $(WORKERS) $(ARGS)

compare: $(VENV)/.installed
	$(BIN)/python -m benchmarks.compare $(LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(PINS) | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(PINS) | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
