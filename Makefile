# The commands of the project. The environment is made in .venv when it is missing, and reused when it is there.
# Extra arguments: make demo ARGS="upsampler=lte", make test ARGS="tests/data -x". Another Python: make PYTHON=python3.12
# One table: make reproduce-tables TABLE=tadt/3. On real sets: DATA=PATH, with CHECKPOINTS=PATH, or with profile=paper.

PYTHON ?= python3
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
# Written last: an interrupted installation leaves no mark, and is taken up again by the next command.
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo pareto test lint bench reproduce-tables clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make the environment in .venv, with everything the other commands need

demo: $(READY) ## train a small TADT + LIIF on bundled photographs, test it, draw it (minutes on 2 CPU cores)
	$(RUN) -m dynres.run +experiment=tadt_liif $(ARGS)

pareto: $(READY) ## train all five methods small and draw them as PSNR against MACs (under half an hour on 2 CPU cores)
	$(RUN) -m dynres.pareto $(ARGS)

# Two workers: each loads torch, and every test uses one thread.
test: $(READY) ## run the tests (no network needed; DYNRES_DATA=/path/to/data adds those on real image sets)
	$(RUN) -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(READY) ## check style, formatting and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(READY) ## each fast path against its plain form, in one report (ARGS="--quick", ARGS="--only decoders")
	$(RUN) -m benchmarks $(ARGS)

reproduce-tables: $(READY) ## the papers' tables and figures beside ours: reports/index.html (half an hour on 2 CPU cores)
	$(RUN) -m dynres.tables $(if $(TABLE),--table $(TABLE)) $(if $(profile),--profile $(profile)) \
	  $(if $(DATA),--data "$(DATA)") $(if $(CHECKPOINTS),--checkpoints "$(CHECKPOINTS)") $(ARGS)

clean: ## remove build products and caches; runs/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -not -path "./runs/*" -prune -exec rm -rf {} +

# A Python without ensurepip (Debian's, say) makes the environment bare, and its own pip fills it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is missing or older than 3.11: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@rm -f $@
	@echo "installing into $(VENV) (minutes the first time)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --without-pip $(VENV)
	@if $(RUN) -m pip --version >/dev/null 2>&1; then pip="$(RUN) -m pip"; \
	  else pip="$(PYTHON) -m pip --python $(RUN)"; fi; \
	  $$pip install -qq -c constraints.txt -e ".[dev]"
	@touch $@
