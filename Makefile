PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

CLUSTER ?= config/cluster/local.yaml
INSTANCES ?= 3
PORT ?= 8000
ENGINE_PORT ?= 8100
PREDICTOR_PORT ?= 8200
LATENCY ?= config/latency/a30-llama-2-7b.yaml
REQUESTS ?= 200
RATE ?= 6
WORKLOAD ?= auto
DATA ?= ../shared/data
MODEL_FOLDER := .cache/models/llama-2-7b

FLEET := --instances $(INSTANCES) --set scheduler_port=$(PORT) --set engine_port=$(ENGINE_PORT) \
	--set predictor_port=$(PREDICTOR_PORT) --set engine.latency=$(LATENCY)
ifeq ($(origin MODEL),command line)
$(error MODEL is not a setting: the model is the cluster file's; name another with CLUSTER=FILE)
endif
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: help install model demo up test test-slow test-cluster bench-what-if bench-router bench-failures lint \
	clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "  Settings, e.g. make demo INSTANCES=4 RATE=8: INSTANCES PORT ENGINE_PORT PREDICTOR_PORT LATENCY"
	@echo "  (the emulated GPU) REQUESTS RATE WORKLOAD DATA CLUSTER PYTHON"

install: $(READY) ## Create .venv and install the pinned packages into it

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "make install: Python 3.11 is needed; name it: make install PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --no-deps "$(TORCH)" || \
		{ echo "make install: $(TORCH), a CPU build, was not found by pip; run:" \
		"make install PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"; exit 1; }
	$(BIN)/pip install -qq --no-deps -r requirements.lock
	$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

model: $(READY) ## Make the model folder of the local cluster (dimensions and tokenizer, no weights)
	@$(BIN)/python -m exp.local_model $(notdir $(MODEL_FOLDER)) --out $(MODEL_FOLDER) >/dev/null

demo: model ## Start a local cluster, send real traffic through it, report, stop everything
	@$(BIN)/python -m exp.cli demo --cluster $(CLUSTER) $(FLEET) --requests $(REQUESTS) --rate $(RATE) \
		--workload $(WORKLOAD) --data $(DATA)

up: model ## Start the same cluster and keep it up until Ctrl-C
	@$(BIN)/python -m deploy.cli up $(CLUSTER) $(FLEET)

test: $(READY) ## Run the test suite
	$(BIN)/python -m pytest

test-slow: $(READY) ## Run the tests that take minutes: whole clusters, emulated and computed
	$(BIN)/python -m pytest -m slow

test-cluster: $(READY) ## Deploy over real sshds and on a real Slurm (installs both with apt-get if they lack)
	tests/cluster/install.sh
	$(BIN)/python -m pytest -m cluster -s tests/cluster

bench-what-if: $(READY) ## Time what-ifs, decisions, plain simulation and a predictor's start
	$(BIN)/block-exp bench what-if

bench-router: $(READY) ## Measure what the router costs before mock instances
	$(BIN)/block-exp bench router

bench-failures: $(READY) ## Kill, stop, delay, reset and corrupt each part under load, and count
	$(BIN)/block-exp bench failures

lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## Remove the environment, caches and run folders
	rm -rf $(VENV) .cache run build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
