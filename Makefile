# Everything runs in .venv, which `make install` fills. On a bare Debian machine: python3 with venv, make, git.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The first Python that the dependencies support.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
# Installed only where no torch is there yet, so that a GPU build of your own stays.
TORCH ?= torch==2.13.0
BIN := .venv/bin
DEMO := outputs/demo
# On a CI machine a missing RELION or Chromium is a failure; elsewhere their tests are skipped.
TEST_ENV := OMP_NUM_THREADS=1 $(if $(CI),DRGN_REQUIRE_RELION=1 DRGN_REQUIRE_CHROMIUM=1)

.PHONY: help
help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: install
install: .venv/.installed ## Make .venv and install drgn into it, editable, with everything that the targets below need

.venv/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "drgn needs Python 3.11, 3.12 or 3.13: none is on PATH"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -e '.[analyze,explore,dev]'
	@touch $@

.PHONY: demo
demo: install ## Simulate a small heterogeneous set, train on it, analyse it, score it against the truth
	$(BIN)/drgn train experiment=demo output=$(DEMO)
	$(BIN)/drgn score run=$(DEMO) n_images=20
	@echo "The report, with the latent space, the maps and their pictures: $(DEMO)/analysis/report.html"

.PHONY: lint
lint: install ## Check the style (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: type
type: install ## Check the types (mypy)
	$(BIN)/mypy

.PHONY: test
test: install relion chromium ## Run the tests that take seconds
	$(TEST_ENV) $(BIN)/pytest -n 2 --dist worksteal -m "not full"

.PHONY: test-full
test-full: install relion chromium ## Run all tests
	$(TEST_ENV) $(BIN)/pytest -n 2 --dist worksteal

# RELION is an oracle of the tests; Debian packages it.
.PHONY: relion
relion:
	@if ! command -v relion_project >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends relion; \
	  else echo "RELION is not installed: the tests that ask it are skipped"; fi; fi

# Chromium opens the reports as a reader does; Debian packages it.
.PHONY: chromium
chromium:
	@if ! command -v chromium >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	  else echo "Chromium is not installed: the tests that open pages in it are skipped"; fi; fi

.PHONY: bench
bench: install ## Measure the speed on this machine, with CRYODRGN=path of its program beside it (experiments/speed)
	$(BIN)/drgn bench output=experiments/speed $(if $(CRYODRGN),cryodrgn=$(CRYODRGN))

.PHONY: scoreboard
scoreboard: install ## Simulated sets beside their ceiling, and cryoDRGN with CRYODRGN=path of its program (hours)
	$(BIN)/python experiments/scoreboard/run.py $(if $(CRYODRGN),--cryodrgn $(CRYODRGN))

.PHONY: fuzz
fuzz: install ## Give every reader spoilt files for half an hour (experiments/fuzz), atheris too where it is installed
	$(BIN)/python experiments/fuzz/run.py --examples $(or $(EXAMPLES),2000) --seconds $(or $(SECONDS_EACH),30)

.PHONY: wheel
wheel: install ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

.PHONY: clean
clean: ## Remove what builds and checks leave behind (not .venv, not outputs)
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
