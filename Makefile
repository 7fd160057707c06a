# Each target makes the environment it needs; nothing outside this folder and the pip cache is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PARITY_VENV ?= .venv-parity
BEAM_VENV ?= .venv-beam
OUT ?= outputs/demo

.PHONY: demo test parity beam clean help

help:
	@echo "make demo   install, and draw prompts in several styles into $(OUT)"
	@echo "make test   install, and run the linters and the tests"
	@echo "make parity install PyTorch too, in an environment of its own, and compare the networks with its libraries'"
	@echo "make beam   install Apache Beam, in an environment of its own, and run the pipelines' tests"

demo: $(VENV)/.installed
	$(BIN)/rdm sample "a red boat" "a blue cat" --database poster --database stained-glass --database watercolour \
	  --database neon --num-images 1 --seed 7 --out $(OUT)

test: $(VENV)/.tested
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -n auto

parity: $(PARITY_VENV)/.installed
	$(PARITY_VENV)/bin/python -m pytest tests/parity/test_parity.py
	PYTHONPATH=$(PARITY_VENV)/vision $(PARITY_VENV)/bin/python -m pytest tests/parity/test_vision.py

beam: $(BEAM_VENV)/.installed
	$(BEAM_VENV)/bin/python -m pytest tests/retrieval/test_beam.py

$(BEAM_VENV)/.installed: setup.py
	$(PYTHON) -m venv $(BEAM_VENV)
	$(BEAM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[test,beam]"
	@touch $@

$(PARITY_VENV)/.installed: setup.py
	$(PYTHON) -m venv $(PARITY_VENV)
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[test,parity]"
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(PARITY_VENV)/vision \
	  torchvision==0.28.0 lpips==0.1.4
	@touch $@

$(VENV)/.installed: setup.py
	$(PYTHON) -c 'import sys; sys.exit("rdm_jax needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) $(PARITY_VENV) $(BEAM_VENV) outputs build *.egg-info
