# Two commands on a fresh machine: `make serve` and `make test`. They need Python 3.11 or newer, make, a C compiler and PyPI.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help serve test test-vllm test-cluster control-plane check bench bench-gateway fuzz soak reference clean

help:
	@echo "make serve   serve the packaged demo model on the embedded engine"
	@echo "make test    run every test, with real engines and real models"
	@echo "make test-vllm   install vLLM for CPUs (2 GB, a minute) and run its tests (minutes)"
	@echo "make test-cluster   tests against a real Kubernetes API server (built once, 5 minutes, by ../shared/tools/controlplane)"
	@echo "make check   format, lint, types, layers, generated pages"
	@echo "make bench-gateway   measure the gateway with everything on beside nginx, HAProxy and other routers; draw docs/gateway-cost.svg"
	@echo "make fuzz    a million fuzzed requests through the gateway (REQUESTS=…)"
	@echo "make soak    mixed load, kills and rude clients for 30 minutes (MINUTES=…)"
	@echo "make bench   measure the gateway beside the engine itself, nginx and other routers"

serve: .venv/.local
	@$(BIN)/headrace serve

test: .venv/.dev .venv/.triton
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-vllm: .venv/.dev .venv/.vllm
	$(BIN)/python -m pytest -m vllm tests/contract

test-cluster: .venv/.dev
	tests/cluster/own-network.sh $(BIN)/python -m pytest -m controlplane tests/cluster

# Debian's Kubernetes, built once into ~/.cache/headrace-controlplane. It fails where its sources or Debian's packages are not there.
SHARED ?= ../shared
control-plane:
	@test -x "$${HEADRACE_CONTROLPLANE:-$$HOME/.cache/headrace-controlplane}/bin/kube-apiserver" || $(SHARED)/tools/controlplane/build.sh

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/reference.py --check

# Every gateway that is in PATH, or in the folders of GATEWAYS (separated by colons); a table, and the picture in docs/.
bench-gateway: .venv/.dev
	$(BIN)/python benchmarks/gateway.py --path "$(GATEWAYS)" --picture docs/gateway-cost.svg

# What clients may send, a million times: half an hour of two cores. And everything at once, for as long as is asked.
REQUESTS ?= 1000000
MINUTES ?= 30
fuzz: .venv/.dev
	$(BIN)/python benchmarks/fuzz.py --requests $(REQUESTS)

soak: .venv/.dev
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

bench: .venv/.dev
	$(BIN)/python benchmarks/gateway.py
	$(BIN)/python benchmarks/first_token.py

reference: .venv/.dev
	$(BIN)/python scripts/reference.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headrace needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 …")'
	@echo "Making a virtual environment in .venv …"
	@$(PYTHON) -m venv .venv

.venv/.local: pyproject.toml | .venv/bin/python
	@echo "Installing Headrace with its embedded engine (about 60 MB to fetch, once) …"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q -e '.[local]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	@echo "Installing Headrace with its embedded engine and the tools for its tests …"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q -e '.[dev]'
	@touch $@ .venv/.local

# Engines whose dependencies clash with others' have environments of their own, in Headrace's cache. Where Triton cannot be installed
# (its wheel is for Linux on x86-64), its tests say so and are skipped.
.venv/.triton: | .venv/.dev
	@$(BIN)/headrace engines install triton && touch $@ || echo "Triton's tests will be skipped."

.venv/.vllm: | .venv/.dev
	@$(BIN)/headrace engines install vllm && touch $@
