# Everything a contributor or CI runs. Each target says what it does and how long it took.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

NODES ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=
VENV := .venv
PYTHON := $(VENV)/bin/python
LAB := $(PYTHON) -m lab
# A skip is a failure where the thing should exist.
export ARCHITECT_REQUIRE ?= helm,kernel

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: pyproject.toml
	@echo "==> Python environment (about 1 minute, once)"
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { apt-get update -qq; apt-get install -y -qq python3 python3-venv; }
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[operator,webhook,daemon,dev]'
	@touch $@

# gcc and musl for the static programs, buildah and mmdebstrap for images, runc for the kernel tests.
PACKAGES := mmdebstrap buildah musl-tools gcc libc6-dev make iproute2 nftables runc git curl ca-certificates

.PHONY: deps
deps: $(VENV)/.ready ## Install what the host needs (apt, pip)
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || { \
	  echo "==> Debian packages: $(PACKAGES)"; apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES); }
	@command -v go >/dev/null || { \
	  echo "Go is missing: install Go 1.21 or newer (it fetches the toolchain that is needed)"; exit 1; }

.PHONY: build
build: deps ## Build cluster, runtime and images (35 minutes on a fresh machine, then seconds)
	@$(LAB) build

.PHONY: cluster-up
cluster-up: build ## Start a real Kubernetes cluster: make cluster-up NODES=2
	@$(LAB) up --nodes $(NODES)

.PHONY: cluster-down
cluster-down: $(VENV)/.ready ## Stop the cluster and remove all it made
	@$(LAB) down

.PHONY: cluster-shell
cluster-shell: $(VENV)/.ready ## A shell with kubectl and helm for the cluster
	@$(LAB) shell

.PHONY: fmt
fmt: $(VENV)/.ready ## Format the code
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

.PHONY: lint
lint: $(VENV)/.ready ## Lint, types, layers
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

.PHONY: test-unit
test-unit: $(VENV)/.ready ## Pure logic and packaging: no root, seconds
	$(VENV)/bin/pytest $(PYTEST_ARGS) tests/unit tests/packaging

.PHONY: test-kernel
test-kernel: build ## Real kernel, runc and CRIU: root, minutes
	$(VENV)/bin/pytest $(PYTEST_ARGS) tests/kernel

.PHONY: test-cluster
test-cluster: build ## The chart from this checkout in a real cluster
	@$(LAB) up --nodes $(NODES)
	$(VENV)/bin/pytest $(PYTEST_ARGS) tests/cluster

.PHONY: test
test: lint deps ## Lint, unit, packaging and kernel tests (the cluster's: make test-cluster)
	@$(LAB) build helm native standalone
	$(VENV)/bin/pytest $(PYTEST_ARGS) tests/unit tests/packaging tests/kernel

.PHONY: demo
demo: build ## Three applications sleep and wake in a real cluster
	@$(PYTHON) -m demo --nodes $(NODES)

.PHONY: demo-down
demo-down: $(VENV)/.ready ## Remove what the demo made
	@$(PYTHON) -m demo down

.PHONY: bench
bench: build ## Percentiles of sleep and wake beside plain runc and CRIU (45 minutes)
	@$(PYTHON) -m bench --nodes $(NODES) $(BENCH_ARGS)
