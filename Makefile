# Each target makes the environment it needs; nothing outside this folder and the pip cache is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PARITY_VENV ?= .venv-parity
CLOUD_VENV ?= .venv-cloud
STUDIO_VENV ?= .venv-studio
PACKAGE_VENV ?= .venv-package
OUT ?= outputs/demo
# What is imported is compiled to bytecode then; pip would do it for all that is installed.
export PIP_NO_COMPILE = 1

SITE ?= build/docs
# `make docs BUILDER=dummy` reads all pages and docstrings and follows all links, and writes no page.
BUILDER ?= html
.PHONY: demo test test-all fuzz lint parity cloud studio docs package extras oldest pythons environments clean help

help:
	@echo "make demo   install, and generate four icons in the styles of four icon sets in $(OUT)"
	@echo "make test   install, and run the linters and the tests, but for the slow ones"
	@echo "make test-all  the linters and all tests"
	@echo "make fuzz   many more random examples of the property tests, and a fault at every write of every operation"
	@echo "make parity install PyTorch too, in an environment of its own, and compare networks and samplers with it"
	@echo "make cloud  install Apache Beam and a stand-in for Google's object storage, in an environment of their own, and test"
	@echo "            pipelines and runs on gs://"
	@echo "make studio install the web page and Playwright, in an environment of their own, and test it in Chromium"
	@echo "make docs   install Sphinx too, and build the documentation site in $(SITE); a warning is an error"
	@echo "make package  build the source distribution and the wheel in dist, and check both"
	@echo "make extras install each extra alone in a fresh environment, and test what it is for; an hour"
	@echo "make oldest the same with the oldest versions that setup.py allows"
	@echo "make pythons  the tests under every Python that setup.py names and that is here"

environments: $(VENV)/.tested $(PARITY_VENV)/.installed $(CLOUD_VENV)/.installed $(STUDIO_VENV)/.installed \
  $(PACKAGE_VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/rdm sample rocket coffee camera umbrella --model icons --database lucide --database solar-broken \
	  --database streamline-freehand --database flat-color-icons --num-images 1 --seed 7 --out $(OUT)

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n auto --dist loadfile

fuzz: $(VENV)/.tested
	RDM_HYPOTHESIS=fuzz RDM_FAULTS=all $(BIN)/python -m pytest -n auto tests/faults \
	  $$(grep -rl --include='test_*.py' 'from hypothesis' tests)

lint: $(VENV)/.tested
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

parity: $(PARITY_VENV)/.installed
	$(PARITY_VENV)/bin/python -m pytest tests/parity/test_parity.py tests/parity/test_samplers.py tests/parity/test_stable_diffusion.py
	PYTHONPATH=$(PARITY_VENV)/vision $(PARITY_VENV)/bin/python -m pytest tests/parity/test_vision.py tests/parity/test_metrics.py

cloud: $(CLOUD_VENV)/.installed
	$(CLOUD_VENV)/bin/python -m pytest tests/retrieval/test_beam.py tests/training/test_object_storage.py

studio: $(STUDIO_VENV)/.installed
	$(STUDIO_VENV)/bin/python -m pytest tests/studio

docs: $(VENV)/.documented
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --jobs auto --builder $(BUILDER) docs $(SITE)

package: $(PACKAGE_VENV)/.installed
	rm -rf dist
	$(PACKAGE_VENV)/bin/python -m build --quiet --outdir dist
	$(PACKAGE_VENV)/bin/twine --no-color check --strict dist/*
	$(PACKAGE_VENV)/bin/check-wheel-contents dist/*.whl
	$(PACKAGE_VENV)/bin/python tests/packaging/contents.py dist

extras: package
	$(PACKAGE_VENV)/bin/python tests/packaging/environments.py

oldest: package
	$(PACKAGE_VENV)/bin/python tests/packaging/environments.py --oldest

pythons: package
	$(PACKAGE_VENV)/bin/python tests/packaging/environments.py --platforms
	$(PACKAGE_VENV)/bin/python tests/packaging/environments.py --pythons plain test

$(PACKAGE_VENV)/.installed: Makefile
	$(PYTHON) -m venv $(PACKAGE_VENV)
	$(PACKAGE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  "build>=1.6,<2" "twine>=7,<8" "check-wheel-contents>=0.6.3,<0.7" "packaging>=26" "uv>=0.13,<0.14"
	@touch $@

$(STUDIO_VENV)/.installed: setup.py
	$(PYTHON) -m venv $(STUDIO_VENV)
	$(STUDIO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[test,studio,browser]"
	@touch $@

$(CLOUD_VENV)/.installed: setup.py
	$(PYTHON) -m venv $(CLOUD_VENV)
	$(CLOUD_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[test,beam,gcs]"
	# The stand-in's file-system library still asks for pkg_resources.
	$(CLOUD_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "gcp-storage-emulator>=2024.8" "setuptools<81"
	@touch $@

$(PARITY_VENV)/.installed: setup.py
	$(PYTHON) -m venv $(PARITY_VENV)
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[test,parity]"
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(PARITY_VENV)/vision \
	  torchvision==0.28.0 lpips==0.1.4 torch-fidelity==0.4.0 clean-fid==0.1.35 prdc==0.2 piq==0.8.0
	@touch $@

$(VENV)/.installed: setup.py
	$(PYTHON) -c 'import sys; sys.exit("rdm_jax needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $@

$(VENV)/.documented: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) $(PARITY_VENV) $(CLOUD_VENV) $(STUDIO_VENV) $(PACKAGE_VENV) .venv-extras outputs build dist *.egg-info
