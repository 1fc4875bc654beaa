# SPDX-License-Identifier: GPL-2.0-only
# make run and make test work from a fresh clone; everything is made below .venv and build.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := pyproject.toml setup.py $(wildcard c_helpers/*.[ch] c_helpers/*/*.[ch] c_helpers/*.py c_helpers/selftest/* guests/*)
WARNINGS := -O2 -Wall -Wextra -Werror
STRICT := -std=gnu11 $(WARNINGS) -Ic_helpers -Iguests
# The emulator's parts, with stand-ins of its headers: it has its own, which are not held to this.
STRICT_CXX := -std=gnu++17 $(WARNINGS) -Itests/support/bochs

# Three workers, as some tests wait for much of their time; they take whole files of tests
# (tests/conftest.py). ARGS=-n0: all in one process.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

RUNS ?= 2000
N ?= 1000

.PHONY: run test check lint lint-ruff lint-format lint-types lint-test-types lint-c lint-cxx docs links \
	bench lab-bench fleet-bench sanitize fuzz chaos fleet-demo wheel clean

run: $(INSTALLED)
	@sh tools/run.sh $(BIN)/kvmtest $(ARGS)

test: $(INSTALLED)
	@sh tools/prerequisites.sh lab emulator stock amd mutants || \
		echo "kvmtest: without them the lab's tests are skipped"
	@$(PYTEST) $(ARGS)

check: lint
	@$(PYTEST) tests/unit $(ARGS)

# .pre-commit-config.yaml runs the same targets.
lint: lint-ruff lint-format lint-types lint-test-types lint-c lint-cxx

lint-ruff: $(INSTALLED)
	$(BIN)/ruff check .

lint-format: $(INSTALLED)
	$(BIN)/ruff format --check .

lint-types: $(INSTALLED)
	$(BIN)/mypy

lint-test-types: $(INSTALLED)
	$(BIN)/mypy --config-file tests/mypy.ini tests tools bench

lint-c: $(INSTALLED)
	for source in c_helpers/*.c c_helpers/*/*.c bench/*.c; do $(CC) $(STRICT) -fsyntax-only $$source || exit 1; done

lint-cxx: $(INSTALLED)
	for source in c_helpers/bochs/*.cc; do $(CXX) $(STRICT_CXX) -fsyntax-only $$source || exit 1; done

# The manual: build/docs/html/index.html and build/docs/man/kvmtest.1. ARGS: options of sphinx-build.
docs: $(INSTALLED)
	@for builder in html man; do \
		$(BIN)/sphinx-build -q -n -W --keep-going -b $$builder -d build/docs/.doctrees $(ARGS) \
			docs build/docs/$$builder || exit 1; done
	@echo "build/docs/html/index.html; man -l build/docs/man/kvmtest.1"

# The links of the manual that lead elsewhere: it asks the network.
links: $(INSTALLED)
	@$(BIN)/sphinx-build -q -b linkcheck -d build/docs/.doctrees docs build/docs/links

bench: $(INSTALLED)
	@status=0; PYTHONPATH=tests $(BIN)/python bench/speed.py || status=1; \
		$(BIN)/python bench/run.py && exit $$status

# AGAINST: another checkout, installed in its .venv, to compare with.
lab-bench: $(INSTALLED)
	@$(BIN)/python bench/lab.py $(if $(AGAINST),--against $(AGAINST))

# ARGS=--write: the figures become docs/fleet-scale.json.
fleet-bench: $(INSTALLED)
	@PYTHONPATH=tests $(BIN)/python bench/fleet.py $(ARGS)

# RUNS: inputs for each harness; ARGS: harnesses, and other options of tests/fuzz/__main__.py.
fuzz: $(INSTALLED)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@PYTHONPATH=tests $(BIN)/python -m fuzz --runs $(RUNS) $(ARGS)

# N: how many runs are killed, and a tenth as many fleets; SEED: of the moments at which they are.
chaos: $(INSTALLED)
	@PYTHONPATH=tests $(BIN)/python -m chaos --kills $(N) $(if $(SEED),--seed $(SEED))
	@PYTHONPATH=tests $(BIN)/python -m fleet_chaos --kills $$(( ($(N) + 9) / 10 )) \
		$(if $(SEED),--seed $(SEED))

# ARGS="-o DIR": where the results stay, by default build/fleet-demo.
fleet-demo: $(INSTALLED)
	@sh tools/prerequisites.sh lab emulator || echo "kvmtest: without them the lab's runs are given up"
	@PYTHONPATH=tests $(BIN)/python -m fleet_demo $(ARGS)

sanitize: $(INSTALLED)
	@PATH=$(CURDIR)/$(BIN):$$PATH sh tests/sanitize.sh

# One wheel for every Python that kvmtest runs on, and every x86-64 Linux whose glibc is not older than
# this one's symbols: a host needs no compiler.
wheel: $(INSTALLED)
	rm -rf build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl

clean:
	rm -rf $(VENV) build dist *.egg-info kvmtest/_native*.so kvmtest/_native.c kvmtest/guests/images \
		kvmtest/lab/inside/port

# The native module and the guests are built by the install.
$(INSTALLED): $(SOURCES) tools/prerequisites.sh kvmtest/distributions.txt
	@PYTHON=$(PYTHON) CC=$(CC) sh tools/prerequisites.sh
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "kvmtest: building and installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
