# make demo: install and rerun a published table.   make test: install and run the tests.   make check: linters and types.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= auto
BIN    := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-clusters check install reports

demo: $(VENV)/.installed
	$(BIN)/repro run plain_vs_residual scale=laptop

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) -m "not slurm and not ray" $(TESTS)

# Those that start a cluster on this machine: SLURM (root, slurm-wlm and munge; skipped with the reason without) and Ray.
test-clusters: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "slurm or ray" -rs $(TESTS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

install: $(VENV)/.installed

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "repro needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): PyTorch and friends, about two minutes the first time"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): PyTorch and friends, about two minutes the first time"
	$(INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

# The committed reports, made again from scratch (about forty minutes on two cores), and the README's excerpt of them.
reports: $(VENV)/.installed-test
	for study in plain_vs_residual:5 preactivation:10 resnext_groups:10 squeeze_excitation:5 nfnet:5 resnet_rs:[1,2,3,4,5]; do \
		words="$${study%:*} scale=laptop seeds=$${study#*:}"; \
		$(BIN)/repro run $$words && $(BIN)/repro report $$words --out reports || exit 1; done
	$(BIN)/repro cost --compare --out reports
	$(BIN)/python tests/test_readme.py
