# The newcomer's commands. PYTHON is any Python 3.10 to 3.13; everything goes into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RECIPE ?= recipes/demo.yaml

.PHONY: demo test test-all test-rest test-slow lint docs economy install clean

demo: $(VENV)/installed
	$(BIN)/masters-edge distill $(RECIPE)
	$(BIN)/masters-edge export
	$(BIN)/masters-edge bench

# A worker for each core; a file's tests stay together, as they share what is exported once. tests/test_suite_ends.py
# reads the options here.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

test: $(VENV)/installed
	$(PYTEST)

# All but the slow ones; `make test-rest` is what `make test` leaves out of it.
test-all: $(VENV)/installed
	$(PYTEST) -m "not slow"

test-rest: $(VENV)/installed
	$(PYTEST) -m "wide and not slow"

test-slow: $(VENV)/installed
	$(PYTEST) -m "slow or not slow"

# The quickest first: seconds, seconds, then a minute or two the first time and seconds afterwards (.mypy_cache).
lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into build/site. A broken link, an unknown page or anything else that Sphinx warns of fails.
docs: $(VENV)/installed
	$(BIN)/python docs/mermaid.py
	$(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees docs build/site
	@echo build/site/index.html

# The figures of docs/results/training.md, as JSON into runs/economy; about 15 minutes on two quiet cores.
# GGUF=FILE adds the stored teacher's error on SmolLM2-135M (recipes/economy/cached.py says where to get it).
economy: $(VENV)/installed
	mkdir -p runs/economy
	$(BIN)/python recipes/economy/grouped.py --out runs/economy/grouped.json
	$(BIN)/python recipes/economy/chunked.py --out runs/economy/chunked.json
	$(BIN)/python recipes/economy/cached.py $(if $(GGUF),--gguf $(GGUF)) --out runs/economy/cached.json
	$(BIN)/python recipes/economy/mask_switch.py --out runs/economy/mask_switch.json
	$(BIN)/python recipes/economy/trl_step.py --out runs/economy/trl_step.json

install: $(VENV)/installed

# A current pip resolves twice as fast as the one that Python 3.11 brings. It compiles on one core; compileall on all of them,
# and it must be done here: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each process would do it again.
# What is written for another Python than this one is passed over.
$(VENV)/installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q --upgrade pip
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e ".[dev]"
	$(BIN)/python -m compileall -qq -j 0 -x '/tests/|/testing/_internal/' $(VENV)/lib/python3*/site-packages || true
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
