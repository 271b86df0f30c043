# Commands for developers. `make` without a target lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.netsonde-stamp
CLICKHOUSE := $(VENV)/.clickhouse-stamp
# `setup` installs more than `build`. Later builds keep that.
USER_STAMP := $(or $(wildcard $(STAMP)),$(VENV)/.netsonde-user-stamp)
EXTRAS := collect,demo,tui,dev,packages
comma := ,
LOCK := $(VENV)/bin/uv pip compile --quiet --upgrade --generate-hashes --no-annotate --no-header \
        --python-version 3.11
NATIVE := $(shell find native -name '*.[ch]' -o -name CMakeLists.txt -o -name '*.bpf.c')
PACKAGED := $(shell find LICENSE CHANGELOG.md agent/netsonde deploy native schemas -type f ! -name '*.pyc' ! -name '*.so')
PACKAGES := $(shell find agent -name __init__.py)

# Debian packages for the build, and for the programs that tests and benchmarks compare with.
APT_BUILD := gcc clang cmake ninja-build pkg-config libbpf-dev libdpdk-dev libpcap-dev libssl-dev python3-venv python3-dev \
             iproute2 iputils-ping
APT_TEST := buildah chromium clang crun ethtool iperf3 iptables libcap2-bin libclang-rt-14-dev mandoc minisign \
            mmdebstrap nfdump openssl pmacct podman procps prometheus rpm systemd tcpdump tshark zsh
APT_TEST += nodejs $(if $(shell command -v npm),,npm)
APT_BENCH := clang ethtool iperf3 nfdump softflowd

# Tests that fill a link, measure time, or need the index of all sockets of the host. They run alone.
ALONE := tests/live/test_gso.py tests/live/test_overload.py tests/live/test_owner.py \
         tests/live/test_owner_first_send.py tests/live/test_owner_inherited.py \
         tests/live/test_owner_limits.py tests/live/test_owner_ports.py tests/live/test_xdp_cost.py \
         tests/live/test_xdp_harm.py tests/native/test_alone.py

.PHONY: help build setup demo docs packages lock test bench clickhouse lint format native-test fuzz coverage mutation clean \
        system-build system-test system-bench system-coverage

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

build: system-build $(USER_STAMP) ## create .venv with netsonde and nats-server

setup: system-build $(STAMP) ## the same, with the tools of developers (0.8 GB)

demo: build ## show live traffic as flow records, with an embedded NATS server
	$(VENV)/bin/netsonde demo

docs: $(STAMP) ## build the documentation as HTML in build/docs
	$(PY) deploy/docs/build_site.py build/docs

packages: setup build/packages/stamp ## build the wheel, the Debian package and the rpm in dist

# After a change of the dependencies in pyproject.toml.
lock: $(STAMP) ## pin the wheels of the packages, and what `make setup` installs
	$(LOCK) --only-binary :all: --python-platform x86_64-manylinux_2_34 \
	  --extra demo --extra tui --output-file deploy/packages/requirements.txt pyproject.toml
	$(LOCK) --universal $(patsubst %,--extra %,$(subst $(comma), ,$(EXTRAS))) \
	  --output-file .ci/requirements.txt pyproject.toml

build/packages/stamp: $(STAMP) $(PACKAGED)
	deploy/packages/wheel
	deploy/packages/system
	@touch $@

test: system-test setup $(CLICKHOUSE) lint packages ## lint, C tests under sanitizers, fuzzers, all Python tests
	.ci/native-test
	.ci/fuzz
	$(PY) -m pytest --numprocesses 3 --dist worksteal $(addprefix --ignore=,$(ALONE))
	$(PY) -m pytest $(ALONE)

clickhouse: $(CLICKHOUSE) ## install ClickHouse as a library (660 MB), for one test

bench: system-bench setup ## measure netsonde and its peers, print one table
	@failed=0; for one in run.py "xdp/live.py --runs 1" xdp/harm.py; do \
	  $(PY) tests/bench/$$one || failed=1; done; exit $$failed

lint: $(STAMP) ## ruff, mypy --strict, clang-format, import rules
	$(VENV)/bin/ruff check agent tests examples deploy/docs
	$(VENV)/bin/ruff format --check agent tests examples deploy/docs
	$(VENV)/bin/mypy
	find tests -mindepth 2 -name conftest.py | xargs -n 1 $(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	find native tests -name '*.[ch]' | xargs $(VENV)/bin/clang-format --dry-run --Werror

format: $(STAMP) ## format Python and C
	$(VENV)/bin/ruff check --fix agent tests examples deploy/docs
	$(VENV)/bin/ruff format agent tests examples deploy/docs
	find native tests -name '*.[ch]' | xargs $(VENV)/bin/clang-format -i

native-test: system-test setup ## only the C tests and fuzzers
	.ci/native-test
	.ci/fuzz
	$(PY) -m pytest tests/native

fuzz: ## run each fuzzer for five minutes
	FUZZ_SECONDS=300 .ci/fuzz

coverage: system-coverage setup ## report the coverage of C and Python in build/coverage
	.ci/coverage

mutation: system-test setup ## change C and Python at random, count the changes that tests notice
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[collect,demo,tui,dev,mutation]'
	@failed=0; for one in c_core agent; do nice $(PY) tests/mutation/$$one.py || failed=1; done; exit $$failed

clean: ## remove everything that was built
	rm -rf build $(VENV) tests/bench/out

system-build:
	@.ci/system-packages $(APT_BUILD)
system-test:
	@.ci/system-packages $(APT_BUILD) $(APT_TEST)
system-coverage:
	@.ci/system-packages $(APT_BUILD) $(APT_TEST) llvm
system-bench:
	@.ci/system-packages $(APT_BUILD) $(APT_BENCH)

$(VENV)/bin/pip:
	python3 -m venv $(VENV)

# Reinstalls after a change of C sources or metadata, or for a new Python package. Other Python
# changes need no reinstall.
# The versions are pinned, so that a new release of a tool does not break the checks.
$(STAMP): $(VENV)/bin/pip pyproject.toml .ci/requirements.txt $(NATIVE) $(PACKAGES)
	@echo "Installing netsonde and the tools of developers in $(VENV). This takes some minutes."
	@.ci/retry $(VENV)/bin/pip install --quiet --disable-pip-version-check \
	  --require-hashes --requirement .ci/requirements.txt
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --editable '.[$(EXTRAS)]'
	@touch $@

ifneq ($(USER_STAMP),$(STAMP))
$(USER_STAMP): $(VENV)/bin/pip pyproject.toml $(NATIVE) $(PACKAGES)
	@echo "Installing netsonde in $(VENV). This takes a minute or two."
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[demo,tui]'
	@touch $@
endif

$(CLICKHOUSE): pyproject.toml | $(STAMP)
	.ci/retry $(VENV)/bin/uv pip install --quiet --python $(PY) --group clickhouse
	@touch $@
