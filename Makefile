# The newcomer's commands. PYTHON is any Python 3.10 to 3.13; everything goes into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RECIPE ?= recipes/demo.yaml

.PHONY: demo test test-slow lint install clean

demo: $(VENV)/installed
	$(BIN)/masters-edge distill $(RECIPE)
	$(BIN)/masters-edge export
	$(BIN)/masters-edge bench

test: $(VENV)/installed
	$(BIN)/python -m pytest -q

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -q -m "slow or not slow"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy masters_edge export benchmarks

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
