# Every target sets up what it needs. `make help` lists them.
#
# The virtual environment is made from requirements.lock, which pins every package by its hash.
# A target is quick when nothing changed: stamps in .venv are keyed by the contents of the lock and of pyproject.toml.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test check bench bench-holds bench-policies bench-responses bench-backtest bench-masking lock clean

VENV := .venv
BIN := $(VENV)/bin
LOCK_ID := $(shell cat requirements.lock 2>/dev/null | sha256sum | cut -c1-16)
PROJECT_ID := $(shell cat pyproject.toml build_proto.py 2>/dev/null | sha256sum | cut -c1-16)
LOCKED := $(VENV)/.locked-$(LOCK_ID)
READY := $(VENV)/.ready-$(LOCK_ID)-$(PROJECT_ID)
PROTOS := $(shell find proto -name '*.proto')
COMPILED := $(patsubst proto/%.proto,%_pb2.py,$(PROTOS))

# Python 3.11 or newer; `make PYTHON=/path/to/python ...` overrides. A name on PATH is tried before it is trusted
# (version managers leave names that start nothing).
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

demo: $(READY) ## A CI job, a small Datadog and Douane between them, on this machine; KEEP=1 leaves it running
	@KEEP='$(KEEP)' $(BIN)/python -m examples.demo.demo

test: $(READY) ## All tests (some packages: make test ARGS=tests/unit; recorded traffic: DOUANE_CORPUS=FOLDER)
	@$(BIN)/python -m pytest $(ARGS)

check: $(READY) ## Lint, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## Envoy alone, a server that does nothing, Douane and mitmproxy in one run (about ten minutes)
	@$(BIN)/python -m bench $(ARGS)

bench-holds: $(READY) ## 2,000 requests held at once by one worker, and what that costs the others (a minute)
	@$(BIN)/python -m bench.holds $(ARGS)

bench-policies: $(READY) ## What policies cost, on honest and on hostile bodies (ten seconds)
	@$(BIN)/python -m bench.policies

bench-responses: $(READY) ## What it costs to look into responses, and to mask them for clients (a minute)
	@$(BIN)/python -m bench.responses $(ARGS)

bench-backtest: $(READY) ## How fast recorded traffic is judged anew (two minutes; needs DOUANE_CORPUS)
	@$(BIN)/python -m bench.backtest $(ARGS)

bench-masking: $(READY) ## What masking finds, masks wrongly and costs (needs DOUANE_CORPUS=FOLDER, about a minute)
	@$(BIN)/python -m bench.masking

lock: $(READY) ## Resolve requirements.lock anew from pyproject.toml (newest versions: make lock UPGRADE=1)
	$(BIN)/uv pip compile pyproject.toml --extra embedded --group dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock' \
		$(if $(UPGRADE),--upgrade) --quiet --output-file requirements.lock
	@! grep -n '://' requirements.lock || { echo 'requirements.lock names an address; remove it' >&2; exit 1; }

clean: ## Remove what demo, bench, tests and tools left behind (the environment stays: rm -r .venv)
	rm -rf var .cache bench/out dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	rm -f ext_proc/pb/*_pb2.py ext_proc/pb/*_pb2.pyi
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): $(LOCKED) | $(COMPILED)
	@rm -f $(VENV)/.ready-*
	@echo '==> installing douane itself (editable)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 && pip="$(BIN)/python -m pip" || pip="$(PYTHON) -m pip --python $(BIN)/python"; \
	$$pip install --disable-pip-version-check --root-user-action=ignore --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(COMPILED) &: $(PROTOS) build_proto.py | $(LOCKED)
	@echo '==> compiling proto/'
	@$(BIN)/python build_proto.py
	@touch $(COMPILED)

$(LOCKED): requirements.lock
	@if [ -z '$(PYTHON)' ]; then \
		echo 'Douane needs Python 3.11 or newer, and none was found on PATH.' >&2; \
		echo 'Debian 12, Ubuntu 24.04 and newer have it: sudo apt-get install python3 python3-venv' >&2; \
		echo 'Is it elsewhere? make PYTHON=/path/to/python3 $(MAKECMDGOALS)' >&2; exit 1; fi
	@if [ ! -x $(BIN)/python ] || ! $(BIN)/python -c ''; then \
		rm -rf $(VENV); \
		echo "==> making $(VENV) with $$($(PYTHON) --version)"; \
		if ! $(PYTHON) -m venv $(VENV) >$(VENV).log 2>&1; then \
			rm -rf $(VENV); \
			if ! { $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python --version; } >>$(VENV).log 2>&1; then \
				cat $(VENV).log >&2; rm -rf $(VENV) $(VENV).log; \
				echo 'The virtual environment could not be made. On Debian and Ubuntu: sudo apt-get install python3-venv' >&2; \
				exit 1; \
			fi; \
		fi; \
		rm -f $(VENV).log; \
	fi
	@echo '==> installing the packages of requirements.lock (about 480 MB the first time)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 && pip="$(BIN)/python -m pip" || pip="$(PYTHON) -m pip --python $(BIN)/python"; \
	$$pip install --disable-pip-version-check --root-user-action=ignore --require-hashes --no-deps --requirement requirements.lock \
		| sed -u '/^Requirement already satisfied/d; /^Looking in/d'
	@rm -f $(VENV)/.locked-*; touch $@
