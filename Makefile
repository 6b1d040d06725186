# Two commands matter: `make run` and `make test`. Each sets up what is missing first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?=
OUT ?= results/$(basename $(notdir $(CONFIG)))
OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help run test lint bench gpu-check gpu-peers clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV) 2>/dev/null \
	  || { rm -rf $(VENV); $(PYTHON) -m pip install --quiet --user virtualenv && $(PYTHON) -m virtualenv --quiet $(VENV); } \
	  || { echo "cannot make $(VENV): install python3-venv (Debian: apt-get install python3-venv)"; exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[examples]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[examples,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps facenet-pytorch  # its weights; it asks for an old torch
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check nvidia-dali-cuda120  # 1 GB, Linux only; without it its tests are skipped
	@touch $@

run: $(VENV)/.installed ## the main job on real images, or on yours: make run CONFIG=my.yaml [OUT=dir OPTIONS="--memory 8GiB"]
ifeq ($(CONFIG),)
	$(BIN)/python jobs/digits_descriptors.py
	$(BIN)/toolkit run jobs/digits.yaml --out results/digits $(OPTIONS)
	$(BIN)/python jobs/digits_check.py results/digits
else
	$(BIN)/toolkit run $(CONFIG) --out $(OUT) $(OPTIONS)
endif

# Some tests drive the report page in a real browser. Without one they are skipped, or fail where CI=true.
.PHONY: browser
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && { apt-get update && apt-get install --yes --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1; } \
	  || echo "no browser for the tests of the report page: install chromium and chromium-driver (Debian: apt-get install chromium chromium-driver)"

# Others run jobs on a real Slurm, which they start.
.PHONY: slurm
slurm:
	@PATH="$$PATH:/usr/sbin:/sbin"; command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && command -v sbatch >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && { apt-get update && RUNLEVEL=1 apt-get install --yes --no-install-recommends slurmctld slurmd slurm-client munge; } >/dev/null 2>&1; } \
	  || echo "no Slurm for the tests of its jobs: install slurmctld, slurmd, slurm-client and munge (Debian: apt-get install slurmctld slurmd slurm-client munge)"

test: $(VENV)/.installed-dev browser slurm ## the tests
	$(BIN)/python -m pytest $(OPTIONS)

lint: $(VENV)/.installed-dev ## ruff (style, formatting) and mypy (types)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[examples,bench]'
	@touch $@

bench: $(VENV)/.installed-bench ## every benchmark, both sides in one process; results in benchmarks/results/
	$(BIN)/python -m benchmarks

gpu-check: ## the device code on a GPU machine: parity, memory, times; needs no network; results in benchmarks/results/
	$(PYTHON) -m benchmarks.gpu_check $(OPTIONS)

gpu-peers: ## the seed grid on a GPU against cuML, flash-kmeans and FlashLib, where they are installed
	$(PYTHON) -m benchmarks.gpu_peers $(OPTIONS)

clean: ## remove the environment, caches and results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info results/*/ descriptors/digits
