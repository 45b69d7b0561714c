# make demo | test | faults | check | clean. Everything is made inside this folder: .venv, .servers, .demo.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: demo test test-units faults check servers clean

demo: $(VENV)/installed  ## this machine's record, with no service and no root
	@$(BIN)/vogeler-admin demo --directory .demo

test: $(VENV)/developing servers  ## the whole suite but for the faults, against real servers
	$(BIN)/python -m pytest --ignore=tests/faults

test-units: $(VENV)/developing  ## what needs no server
	$(BIN)/python -m pytest --local-only --ignore=tests/faults

faults: $(VENV)/developing servers  ## a busy fleet, and all that can happen to it; FLAGS="--faults-seed N" replays
	$(BIN)/python -m pytest tests/faults tests/fuzz --faults $(FLAGS)

check: $(VENV)/developing  ## lint, types, imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
	rm -rf $(VENV) .servers .demo build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
