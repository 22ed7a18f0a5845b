# make demo   see what the losses do on real data       make test   run the tests
# Both build .venv first; after that they start at once. ARGS goes to the command: make demo ARGS="yeast --seeds 3".

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := dev,docs
READY  := $(VENV)/.ready
JOBS   ?= auto

# PyTorch's own index has the CPU build, a tenth of the size of the default one on Linux. A machine whose pip
# is set up with wheels of its own (find-links) is left alone.
TORCH_INDEX ?= $(shell $(PYTHON) -m pip config list 2>/dev/null | grep -q find-links || echo "--extra-index-url https://download.pytorch.org/whl/cpu")

# What runs under the oldest torch that pyproject.toml declares: the tests of the losses, which need torch alone.
OLDEST       := .venv-oldest
OLDEST_TORCH  = $(shell sed -n 's/^dependencies = \["torch>=\([0-9.]*\)"\]$$/\1/p' pyproject.toml)
OLDEST_TESTS  = $(filter-out %/__pycache__ $(addprefix tests/,ranks.py compare decisions quality sklearn test_cli.py \
  test_decision_classifier.py test_docs.py test_examples.py test_verify.py $(notdir $(wildcard tests/test_*_benchmark.py))),$(wildcard tests/*))

.PHONY: install demo test test-all test-oldest lint docs clean lock
install: $(READY)

# The stamp is written last, so an interrupted installation is taken up again by the next make.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"equilog needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]}. Say which one: make PYTHON=python3.12 install")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a minute or two, once)"
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt $(TORCH_INDEX) torch
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: install
	@$(BIN)/equilog compare $(or $(ARGS),digits-lt)

test: install
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) -m "not slow" $(ARGS)

test-all: install
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) $(ARGS)

# Warnings are an old torch's own affair. Not in CI: where only its build for GPUs is to be had, an old torch takes several GB.
test-oldest: $(OLDEST)/.ready
	@OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -n $(JOBS) -m "not slow" -W default $(OLDEST_TESTS) $(ARGS)

# With the versions that this project is tested with, but for torch and what it has in versions of its own.
$(OLDEST)/.ready: pyproject.toml constraints.txt
	@test -n "$(OLDEST_TORCH)" || { echo "pyproject.toml declares no oldest torch: dependencies = [\"torch>=...\"]"; exit 1; }
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	@echo "Installing torch $(OLDEST_TORCH) into $(OLDEST) (up to several GB, once)"
	@grep -vE '^(torch|triton|sympy)==' constraints.txt > $(OLDEST)/constraints.txt
	@$(OLDEST)/bin/python -m pip install -qq --no-compile --disable-pip-version-check -c $(OLDEST)/constraints.txt $(TORCH_INDEX) torch==$(OLDEST_TORCH) -e '.[compare,test]'
	@touch $@

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: install
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

lock: install
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip list --format=freeze | grep -viE '^(equilog|pip|setuptools)=' | sed 's/+cpu$$//'; } > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) $(OLDEST) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
