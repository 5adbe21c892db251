# make help lists what there is. Everything runs in .venv, which `make setup` makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo report test test-fast soak lint docs bench picture clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## .venv with everything that is needed (about 6 GB, two minutes)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON): install Python 3.10 to 3.13, or name one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else "make: Python 3.10 to 3.13 is needed, $(PYTHON) is %d.%d: name another: make PYTHON=python3.12" % v)'
	@$(PYTHON) -c 'import sys; from importlib.util import find_spec; sys.exit(None if find_spec("ensurepip") else "make: $(PYTHON) cannot make .venv: apt-get install python3-venv")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,docs]'
	$(BIN)/python -m darp
	$(BIN)/python -m data
	@touch $@

demo: setup ## train the two regimes with and without DARP (under 2 minutes on 2 cores), write report.html
	$(BIN)/python -m sweeps run sweeps/demo.yaml --jobs 2
	$(BIN)/python report.py runs/demo --out report.html
	@echo; echo "Each run is a W&B run in offline mode. Open one in the terminal, or send them all after \`wandb login\`:"
	@for run in runs/demo/*/wandb/offline-run-*; do echo "  $(BIN)/wandb leet $$run"; done
	@echo "  $(BIN)/python -m tracking.sync runs/demo"

test: setup ## all tests
	$(BIN)/python -m pytest

test-fast: setup ## the tests that take less than about 5 seconds each
	$(BIN)/python -m pytest -m 'not slow'

soak: setup ## 200 trainings killed and resumed, 2,000 epochs in one process (about half an hour of one core)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak --cycles 200 --epochs 2000

lint: setup ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports

docs: setup ## site/, from docs/*.md and the docstrings of darp; a broken link is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs site
	@echo site/index.html

bench: setup ## every speed that the README quotes
	$(BIN)/python -m benchmarks.solver
	$(BIN)/python -m benchmarks.data_time
	$(BIN)/python -m benchmarks.logging
	$(BIN)/python -m benchmarks.epoch_end
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.launches
	$(BIN)/python -m benchmarks.published_step

picture: setup ## the pictures of the README from the runs of make demo (needs tmux and chromium)
	$(BIN)/python report.py runs/demo --out report.html
	$(BIN)/python docs/page_screen.py report.html docs/page
	$(BIN)/python docs/wandb_screen.py runs/demo/fix_digits_r130_*_none_* docs/wandb.png

clean: ## remove caches (not runs, not .venv)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
