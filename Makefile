# Every target does its own set-up; nothing has to be installed by hand but Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
INSTALLED_TEST := $(VENV)/installed-test
INSTALLED_PICTURES := $(VENV)/installed-pictures
PACKAGES := protocol nodes coordinator numalab
CHECKED := $(PACKAGES) grafana tests

# Of `make conformance`; SEED=N draws the same ones again.
RANDOM_SCENARIOS ?= 500
# Of `make stress`; SEED=N draws the same load and faults again.
STRESS_SECONDS ?= 600

.PHONY: help demo test sim crashes soak stress compose bench conformance docs pictures clean
.DEFAULT_GOAL := help

help:  ## Say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

demo: $(INSTALLED)  ## Start a small machine and watch its pages move
	$(BIN)/numalab demo

test: $(INSTALLED_TEST)  ## Style, types and tests
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy --strict $(CHECKED)
	$(BIN)/python -m pytest -n 2

sim: $(INSTALLED)  ## The same program on virtual time, with faults
	$(BIN)/numalab sim

crashes: $(INSTALLED)  ## 20,000 seeds in which processes die, and the matrix of faults
	$(BIN)/numalab sim --crashes --seeds 0-19999
	$(BIN)/numalab sim --matrix

soak: $(INSTALLED_TEST)  ## Writers during a minute of migrations, and 10,000 there and back
	NUMALAB_SOAK_SECONDS=60 NUMALAB_SOAK_MIGRATIONS=10000 \
	  $(BIN)/python -m pytest -s --timeout 1200 tests/test_soak.py

stress: $(INSTALLED)  ## Ten minutes of load and faults on real processes, and a verdict
	$(BIN)/numalab stress --duration $(STRESS_SECONDS) $(if $(SEED),--seed $(SEED))

compose: $(INSTALLED_TEST)  ## The machine in containers, started, broken and stopped
	deploy/images
	NUMALAB_COMPOSE=1 $(BIN)/python -m pytest -s tests/test_compose.py

bench: $(INSTALLED)  ## How fast pages move on this machine
	$(BIN)/numalab bench

conformance: $(INSTALLED)  ## The same calls here and on a real Linux 6.1 in QEMU
	$(BIN)/python -m numalab.conformance --random $(RANDOM_SCENARIOS) $(if $(SEED),--seed $(SEED))

docs: $(INSTALLED)  ## Write the pages that are made from the tables
	$(BIN)/python -m numalab.documents
	$(BIN)/python -m grafana.generate

pictures: $(INSTALLED_PICTURES)  ## Draw the dashboards as a machine at work fills them
	$(BIN)/python -m grafana.pictures

clean:  ## Remove what make and the tools have made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is touched last, so an installation that was cut short is done again.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "numalab needs Python 3.11 or newer, and '$(PYTHON)' is not that:" \
	    "install one and say 'make PYTHON=/path/to/python3.11'." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu, 'apt-get install python3-venv'" \
	    "and try again." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(INSTALLED_TEST): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(INSTALLED_PICTURES): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[pictures]'
	@touch $@
