# make demo | test | faults | soak | bench | blowout | check | audit | lock | clean.
# Everything is made inside this folder: .venv, .servers, .demo, .soak.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
MINUTES ?= 60
WORKERS ?= 3

unexport PYTHONDONTWRITEBYTECODE  # set in many containers; each of thousands of processes would compile all it imports

.PHONY: demo test test-units faults soak bench blowout check audit lock servers clean

demo: $(VENV)/installed  ## this machine's record, with no service and no root
	@$(BIN)/vogeler-admin demo --directory .demo

test: $(VENV)/developing servers  ## the whole suite, against real servers; WORKERS=0: one test after the other
	$(BIN)/python -m pytest -n $(WORKERS)

test-units: $(VENV)/developing  ## what needs no server
	$(BIN)/python -m pytest --local-only --ignore=tests/faults -n $(WORKERS)

faults: $(VENV)/developing servers  ## a busy fleet, and all that can happen to it; FLAGS="--faults-seed N" replays
	$(BIN)/python -m pytest tests/faults tests/fuzz --faults $(FLAGS)

soak: $(VENV)/developing servers  ## faults for an hour, or MINUTES=n; tables and a chart in .soak
	$(BIN)/python -m pip install --quiet matplotlib
	$(BIN)/python -m pytest tests/faults --soak $(MINUTES) -vv $(FLAGS)

bench: $(VENV)/developing servers  ## what things cost, each beside its floor
	for program in broadcast agent intake index side_by_side signing; do $(BIN)/python benchmarks/$$program.py || exit 1; done
	folder=$$(mktemp -d) && trap "rm -r $$folder" EXIT && \
	    $(BIN)/python benchmarks/generator.py --nodes 1000 --load sqlite://$$folder/fleet.db && \
	    $(BIN)/python benchmarks/questions.py sqlite://$$folder/fleet.db

blowout: $(VENV)/developing servers  ## 200 clients, then 10,000 simulated nodes: FLAGS="--nodes 1000" for fewer
	$(BIN)/python -m pip install --quiet matplotlib
	$(BIN)/python benchmarks/blowout.py $(FLAGS)

check: $(VENV)/developing  ## lint, types, imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(VENV)/developing  ## what is known against the libraries in requirements.lock
	$(BIN)/python .ci/audit.py requirements.lock $(FLAGS)

lock: $(VENV)/installed  ## pin what setup.py asks for; FLAGS=--upgrade takes the newest
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile setup.py --all-extras --universal --python-version 3.9.2 --generate-hashes --no-emit-index-url \
	    --no-config --quiet --custom-compile-command "make lock" --output-file requirements.lock $(FLAGS)

servers:  ## RabbitMQ and a CouchDB API server, for the tests
	@tests/servers/install

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.py $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/developing: requirements-dev.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

clean:  ## remove what was made here
	rm -rf $(VENV) .servers .demo .soak build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
