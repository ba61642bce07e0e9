# make demo, make test and make lint do all the set-up on a fresh machine; a second run installs nothing.
# Needs Python 3.10, 3.11 or 3.12 with venv; choose one with PYTHON=...
# The versions installed are those that were tested (constraints.txt); LATEST=1 takes the newest instead.

VENV := .venv
BIN := $(VENV)/bin
SUITABLE = import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	$$p -c '$(SUITABLE)' >/dev/null 2>&1 && echo $$p && break; done)

CONSTRAINTS := $(if $(LATEST),,--constraint constraints.txt)

.PHONY: demo test faults bench lint docs constraints clean

demo: $(VENV)/installed
	$(BIN)/lightbsr demo

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto

# Faults of every kind, injected into real training runs; some take minutes.
faults: $(VENV)/installed
	$(BIN)/python -m pytest tests/faults

# Time against the released procedures, as a table. BENCH="--threads 1 2", for instance, gives it options.
bench: $(VENV)/installed
	$(BIN)/python benchmarks/speed.py $(BENCH)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation's pages, in build/site/index.html; a warning is an error.
docs: $(VENV)/installed
	$(BIN)/python -m mkdocs build --strict

# BasicSR's build imports torch: what it needs is installed first, and it is built without isolation, or else pip
# would download torch a second time.
$(VENV)/installed: setup.py pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.10, 3.11 or 3.12 with venv found: install one, or name it with PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install $(CONSTRAINTS) torch torchvision numpy cython "setuptools>=80" wheel
	$(BIN)/python -m pip install $(CONSTRAINTS) --no-build-isolation "basicsr>=1.4.2"
	$(BIN)/python -m pip install $(CONSTRAINTS) --no-build-isolation --editable ".[train,demo,dev,docs,integration]"
	touch $@

# Write the versions that are installed into constraints.txt: run it after `make test LATEST=1` has passed. Some of
# them have no release for Python 3.10; nightly releases are deleted after some weeks.
constraints: $(VENV)/installed
	$(BIN)/python -m pip freeze --exclude-editable | grep -v nightly | sed 's/$$/; python_version >= "3.11"/' > constraints.txt
	touch $(VENV)/installed

clean:
	rm -rf $(VENV) build *.egg-info
