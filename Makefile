# Each target makes the environment it needs; nothing outside this folder and the pip cache is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= outputs/demo

.PHONY: demo test lint clean help

help:
	@echo "make demo   install, and draw prompts in several styles into $(OUT)"
	@echo "make test   install, and run the linters and the tests"

demo: $(VENV)/.installed
	$(BIN)/rdm sample "a red boat" "a blue cat" --database poster --database stained-glass --database watercolour \
	  --database neon --num-images 1 --seed 7 --out $(OUT)

test: $(VENV)/.tested
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -n auto

$(VENV)/.installed: setup.py
	$(PYTHON) -c 'import sys; sys.exit("rdm_jax needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) outputs build *.egg-info
