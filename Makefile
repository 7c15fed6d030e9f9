# make demo    a video from examples/park.yaml with the model that the package ships
# make test    the whole test suite
# make lint    ruff, mypy, import-linter
# make test-browser    the tests that drive a web browser; fetches Chromium where there is none
#
# Each first makes the virtual environment .venv, once. PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.installed
SHELL := /bin/bash

.PHONY: demo test test-browser lint clean

demo: $(STAMP)
	@begun=$$(date +%s%N) \
	&& $(VENV)/bin/alchemint generate examples/park.yaml -o out/demo.mp4 --sheet \
	&& taken=$$(( ($$(date +%s%N) - begun) / 100000000 )) \
	&& echo "out/demo.mp4 and out/demo.png took $$((taken / 10)).$$((taken % 10)) s, loading included"

test: $(STAMP)
	$(VENV)/bin/python -m pytest

test-browser: $(STAMP)
	command -v chromium chromium-browser google-chrome > /dev/null || $(VENV)/bin/playwright install --with-deps chromium
	$(VENV)/bin/python -m pytest -m browser

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python " + sys.version.split()[0] + \
	" is too old, alchemint needs 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --constraint constraints.txt --editable ".[dev]"
	@touch $@
