# Each target makes .venv and installs what it needs by itself. A stamp file remembers each set of
# dependencies, so that a later run starts at once. Try `make help`.

PYTHON ?= python3
THREADS ?= 1
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Data sets that the package may not ship; the tests that need them are skipped, visibly, where there are none.
STATML_DATA ?= $(abspath $(wildcard ../shared/data))
ifneq ($(STATML_DATA),)
export STATML_DATA
endif

.DEFAULT_GOAL := help
.PHONY: quickstart test test-all vignettes lint site bench clean help
# Two installations at once would break .venv.
.NOTPARALLEL:

quickstart: $(VENV)/stamp-run  ## rank the monks of Sampson's monastery: the package in one minute
	$(BIN)/python quickstart.py

test: $(VENV)/stamp-test  ## the tests, without the slow ones
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/stamp-test  ## every test, and many more random inputs
	$(BIN)/python -m pytest -n 2 --hypothesis-profile=thorough

vignettes: $(VENV)/stamp-test  ## run every tutorial, timed
	$(BIN)/python vignettes/run_all.py

lint: $(VENV)/stamp-test  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

site: $(VENV)/stamp-docs  ## the documentation, into site/index.html
	$(BIN)/python -m sphinx -W --keep-going -b html vignettes/site site
	$(BIN)/python vignettes/check_links.py site

bench: $(VENV)/stamp-bench  ## every benchmark against its peer (THREADS=1 each)
	@set -e; for script in $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)); do \
	    echo "== $$script"; \
	    OMP_NUM_THREADS=$(THREADS) OPENBLAS_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) \
	    NUMBA_NUM_THREADS=$(THREADS) $(BIN)/python $$script; \
	done

clean:  ## remove everything that make has made
	rm -rf $(VENV) site build dist *.egg-info output .pytest_cache .ruff_cache .mypy_cache .hypothesis
	rm -rf vignettes/site/auto vignettes/site/generated vignettes/site/sg_execution_times.rst
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## *' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

$(VENV)/stamp-run: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("statml needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another one: make PYTHON=/path/to/python" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

# stamp-test, stamp-docs, stamp-bench: the extra of that name on top of the run-time dependencies
$(VENV)/stamp-%: $(VENV)/stamp-run
	$(PIP) --editable '.[$*]'
	@touch $@
