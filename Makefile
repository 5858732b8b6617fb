# Two commands: `make demo` and `make test`. Both make the environment in .venv first; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
PYTHON ?= $(firstword $(foreach name,python3.11 python3,$(if $(shell $(name) -c "" 2>/dev/null && echo yes),$(name))))
UV = $(or $(shell command -v uv),$(BIN)/uv)

# The caller's PATH: commands are printed as they work in that shell.
ifndef WSSS_READER_PATH
export WSSS_READER_PATH := $(PATH)
endif
export PATH := $(CURDIR)/$(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR := false
export MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT := true
export GIT_PYTHON_REFRESH := quiet
export RAY_USAGE_STATS_ENABLED := 0
export DVC_NO_ANALYTICS := 1
export GOMP_SPINCOUNT := 10000
export THP_MEM_ALLOC_ENABLE := 1
# Where it is set, no library is ever compiled, and every command starts ten seconds later.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) ## from image-level tags to a tracked, versioned segmentation model, in minutes on two cores
	@mkdir -p work
	wsss run --method bound --preset demo > work/bound.log 2>&1 & trap "kill $$! 2> /dev/null || true" EXIT; \
	mlflow run . --env-manager local -P method=affinity -P preset=demo; \
	wait $$! || { cat work/bound.log; exit 1; }

.PHONY: dashboard
dashboard: $(READY) ## pages to compare runs: which method wins, where, and why; on http://127.0.0.1:8050
	wsss dashboard

.PHONY: stack
stack: $(READY) ## a team's stack on this machine without containers, in work/stack; see docs/operations.md
	python -m infra.stack start

.PHONY: test
test: lint ## all checks and all tests (REQUIRE_ALL=1 makes a skipped test a failure)
	pytest -q

.PHONY: soak
soak: $(READY) ## what takes long: ten minutes of a server with promotions, Ray Serve
	WSSS_SOAK=1 pytest -q -m soak --timeout 1200

.PHONY: lint
lint: $(READY) ## style, types and who may import whom
	ruff check .
	ruff format --check .
	mypy
	lint-imports

.PHONY: generate
generate: $(READY) ## dvc.yaml and the tables in the docs, from the methods
	python -m pipelines.generate

.PHONY: docs
docs: $(READY) ## the documentation site in site/, links checked; nothing is fetched
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

.PHONY: performance
performance: $(READY) ## every benchmark, and docs/performance.md from their figures; half an hour of a quiet machine
	mkdir -p work/performance
	for name in $$(wsss bench); do wsss bench $$name --json > work/performance/$$name.json; done
	python -m pipelines.performance work/performance/*.json benchmarks/measured/*.json > work/performance/page.md
	mv work/performance/page.md docs/performance.md

# Where there is a GPU, there is often neither a network nor an environment of ours: any Python with torch will do.
.PHONY: gpu
gpu: ## on a GPU, in WSSS_GPU_MINUTES (8): tests, speed, runs on WSSS_GPU_DATA, their record in work/gpu; see docs/gpu.md
	@$(if $(filter file,$(origin PYTHON)),$(or $(wildcard $(BIN)/python),$(PYTHON)),$(PYTHON)) -m pipelines.gpu

.PHONY: env
env: $(READY) ## the environment in .venv, with the versions of requirements.lock

.PHONY: lock
lock: $(READY) ## resolve requirements.lock anew, from pyproject.toml and constraints.in
	$(UV) pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url \
		--extra dev --extra stack --constraints constraints.in --output-file requirements.lock pyproject.toml

.PHONY: sbom
sbom: $(READY) ## a bill of materials of requirements.lock in work/sbom.json, CycloneDX
	@mkdir -p work
	cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible --of JSON -o work/sbom.json

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "no Python found; install Python 3.11, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 13) or sys.exit("$(PYTHON) is Python %d.%d; Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11" % v)'
	@echo "making the environment in $(VENV) (about 6 GB, a few minutes)"
	@if command -v uv > /dev/null; then uv venv --quiet --seed --allow-existing --python $(PYTHON) $(VENV); \
	elif $(PYTHON) -c 'import ensurepip' 2> /dev/null; then $(PYTHON) -m venv $(VENV); \
	else echo "$(PYTHON) can't make a virtual environment; install its venv package (Debian, Ubuntu: apt install python3.11-venv) or uv" >&2; exit 1; fi

$(READY): pyproject.toml requirements.lock | $(BIN)/python
	@command -v uv > /dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
		|| { echo "uv can't be installed in $(VENV); see above, or remove $(VENV) and run make again" >&2; exit 1; }
	$(UV) pip install --quiet --requirement requirements.lock
	$(UV) pip install --quiet --no-deps --editable .
	@$(UV) pip install --quiet 'pydensecrf2==1.1' 2> $(VENV)/pydensecrf2.log \
		|| echo "pydensecrf2 could not be compiled (see $(VENV)/pydensecrf2.log); the CRF of this project takes its place"
	@if $(BIN)/python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("wsss.ops.native"))'; then \
		$(BIN)/python -m wsss.ops.native.build 2> $(VENV)/native.log \
		|| echo "the native kernels could not be compiled (see $(VENV)/native.log); slower ones take their place"; fi
	@touch $@
