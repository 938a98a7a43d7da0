# Everything a contributor or CI runs. What takes long tells its steps, with the time so far.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

NODES ?= 2
# Anything but "yes" leaves the cluster tests out of `make test`, where no cluster can run.
CLUSTER ?= yes
# The same for `make test-long` and the virtual machine, which is made for amd64 only.
VM ?= yes
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_SECONDS ?= 60
FUZZ ?=
AGAIN ?=
# What `make faults` tries, and its options; nothing: all of it.
FAULTS ?=
# How many cycles `make soak` makes; nothing: 1,000.
export SOAK_CYCLES ?=
VENV := .venv
PYTHON := $(VENV)/bin/python
# Debian's own and no version manager's: an environment made from it stays good.
HOST_PYTHON ?= /usr/bin/python3
LAB := $(PYTHON) -m lab
# One process for each core: they share nothing.
UNIT := $(VENV)/bin/pytest --numprocesses=auto --maxprocesses=4
# What takes thousands of steps at chance.
MACHINES = $(shell find tests/unit -name 'test_*_machine.py')
# Servers on loopback and nothing of the machine: they mostly wait.
SERVERS := tests/kernel/objectstore tests/kernel/kms
# Status 5: nothing was selected. What PYTEST_ARGS select may all be in the other half.
OR_NOTHING = $(if $(strip $(PYTEST_ARGS)),|| [ $$? = 5 ])
# Runs what fails once more, alone, and tells it apart from what fails again.
PYTEST_OF := $(PYTHON) -m secondlook --of
# The others have namespaces, cgroups and machines of their own, with the process's number in their
# names. Which of them stay together: tests/support/units.py.
KERNEL = echo "==> kernel tests: servers, in four processes (2 minutes)" && \
	{ $(PYTEST_OF) servers -- --numprocesses=4 $(PYTEST_ARGS) $(SERVERS) $(OR_NOTHING); } && \
	echo "==> kernel tests: containers and nodes, in three processes (7 minutes)" && \
	{ $(PYTEST_OF) kernel -- --numprocesses=3 --dist=loadfile $(PYTEST_ARGS) $(SERVERS:%=--ignore=%) tests/kernel $(OR_NOTHING); }
# Those that leave the rest of the cluster as it is run side by side: they mostly wait, too.
export CLUSTER_TESTS = { $(PYTEST_OF) concurrent -- --numprocesses=3 --dist=loadfile -m concurrent $(PYTEST_ARGS) tests/cluster $(OR_NOTHING); } && \
	{ $(PYTEST_OF) cluster -- -m "not concurrent" $(PYTEST_ARGS) tests/cluster $(OR_NOTHING); }
# A skip is a failure where the thing should exist.
export ARCHITECT_REQUIRE ?= helm,kernel

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A virtual environment dies with the interpreter that it was made from: make it anew then.
ifneq ($(wildcard $(VENV)/.ready),)
ifneq ($(shell $(PYTHON) -c 'print("alive")' 2>/dev/null),alive)
$(shell rm -f $(VENV)/.ready)
endif
endif

# No stamp means that the last run was interrupted or that there was none: what is there is no base
# to go on from. A stamp that is merely older than pyproject.toml is one.
$(VENV)/.ready: pyproject.toml
	@[ -x $(HOST_PYTHON) ] || { \
	  echo "==> Debian package python3 (about 1 minute, once)"; apt-get -qq update; \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends python3; }
	@cd hack && $(HOST_PYTHON) -B -m lab.packages
	@echo "==> Python environment in $(VENV) (about 1 minute, once)"
	@[ -e $@ ] || { rm -rf $(VENV); $(HOST_PYTHON) -m venv $(VENV); }
	@rm -f $@
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[operator,webhook,daemon,dev]'
	@touch $@

.PHONY: deps
deps: $(VENV)/.ready ## Install what the host needs (apt, pip; 3 minutes, once) and check it
	@$(LAB) prerequisites

.PHONY: build
build: deps ## Build cluster, runtime and images (25 minutes on a fresh machine, then seconds)
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
test-unit: $(VENV)/.ready ## Pure logic, packaging and parsers: no root, 1 to 3 minutes
	$(UNIT) $(PYTEST_ARGS) tests/unit tests/packaging tests/fuzz

# 60 s each; FUZZ="oci standin" chooses parsers, AGAIN=FILE runs one input once more.
.PHONY: fuzz
fuzz: export PYTHONPATH := tests
fuzz: $(VENV)/.ready ## Look for inputs that break a parser: FUZZ_SECONDS for each of them
	$(PYTHON) -m fuzz $(if $(AGAIN),--again $(AGAIN),--seconds $(FUZZ_SECONDS) $(FUZZ))

.PHONY: test-kernel
test-kernel: deps ## Real kernel, runc and CRIU: root, 8 to 9 minutes
	@$(LAB) build native standalone versitygw local-kms node-root runsc crictl containerd architect
	@$(KERNEL)

.PHONY: test-cluster
test-cluster: build ## The chart from this checkout in a real cluster, which stays up
	@$(LAB) up --nodes $(NODES)
	$(VENV)/bin/pytest $(PYTEST_ARGS) tests/cluster

# The quickest first, so that a mistake shows before 25 minutes of building.
.PHONY: test
test: lint deps ## Everything: lint, unit, packaging, kernel and cluster tests (about 30 minutes once all is built)
	@$(PYTHON) -m secondlook --forget
	@$(LAB) build helm
	$(UNIT) $(PYTEST_ARGS) tests/unit tests/packaging tests/fuzz $(OR_NOTHING)
	@$(LAB) build native standalone versitygw local-kms node-root runsc crictl containerd architect
	@$(KERNEL)
ifeq ($(CLUSTER),yes)
	@$(LAB) build
	@$(LAB) run --nodes $(NODES) --logs build/test-logs -- $(SHELL) $(.SHELLFLAGS) "$$CLUSTER_TESTS"
endif
	@$(PYTHON) -m secondlook --tell

.PHONY: test-long
test-long: build ## State machines, kernel and cluster tests in full, where `make test` takes a sample: hours
	ARCHITECT_LONG=1 $(UNIT) --timeout=3600 $(PYTEST_ARGS) $(MACHINES) $(OR_NOTHING)
	ARCHITECT_LONG=1 $(VENV)/bin/pytest $(PYTEST_ARGS) tests/kernel
ifeq ($(VM),yes)
	@$(PYTHON) -m vm -- $(PYTEST_ARGS)
	@$(PYTHON) -m vm --cluster -- $(PYTEST_ARGS)
endif
	@ARCHITECT_LONG=1 $(LAB) run --nodes $(NODES) --logs build/test-logs -- \
	  $(VENV)/bin/pytest $(PYTEST_ARGS) tests/cluster

.PHONY: test-vm
test-vm: deps ## A sample of the kernel tests on cgroup v2, in a virtual machine (10 minutes)
	@$(PYTHON) -m vm -- $(PYTEST_ARGS)

.PHONY: test-vm-cluster
test-vm-cluster: build ## The main path on a Kubernetes node with cgroup v2, in that machine (25 minutes)
	@$(PYTHON) -m vm --cluster -- $(PYTEST_ARGS)

.PHONY: faults
faults: deps ## Whatever is killed or broken, at every step of a container's life: FAULTS='keeper @dump'
	@$(LAB) build $(if $(filter yes,$(CLUSTER)),,native)
	@$(PYTHON) -m faults --nodes $(NODES) $(if $(filter yes,$(CLUSTER)),,--stage node) $(FAULTS)

.PHONY: soak
soak: build ## 1,000 sleeps and wakes over 20 pods with clients: SOAK_CYCLES=200 makes it short
	@$(PYTHON) -m faults.soak --nodes $(NODES)

# The cluster is made anew: the API server writes its audit log from its beginning, or not at all.
.PHONY: rights
rights: build ## What our accounts may ask of the API server and never did in the cluster tests: hours
	@$(LAB) down
	@ARCHITECT_LONG=1 ARCHITECT_LAB_AUDIT=1 $(LAB) run --nodes $(NODES) --logs build/test-logs -- \
	  $(SHELL) $(.SHELLFLAGS) '$(VENV)/bin/pytest $(PYTEST_ARGS) tests/cluster || \
	    echo "==> some tests failed: what only they use is named as well"; $(PYTHON) -m bench.rights'

.PHONY: demo
demo: build ## Applications sleep, wake and are drained in a real cluster
	@$(PYTHON) -m demo --nodes $(NODES)

# Two nodes stay when the third one is gone; NODES=2 leaves one.
.PHONY: demo-spot
demo-spot: build ## A spot machine is taken back with 120 s notice: who is saved, said before and shown
	@$(PYTHON) -m demo spot --nodes $(if $(filter file,$(origin NODES)),3,$(NODES))

.PHONY: demo-down
demo-down: $(VENV)/.ready ## Remove what the demo made
	@$(PYTHON) -m demo down

.PHONY: workloads
workloads: build ## Real applications sleep and wake under their clients; writes docs/workloads.md (15 minutes)
	@$(PYTHON) -m applications --nodes $(NODES)

.PHONY: bench
bench: build ## Percentiles of sleep and wake beside plain runc and CRIU (75 minutes at most)
	@$(PYTHON) -m bench --nodes $(NODES) $(BENCH_ARGS)
