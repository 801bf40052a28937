# make demo | test | test-slow | test-backends | test-matrix | lint | docs |
# clean: each does its set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
UNFINISHED := $(VENV)/.unfinished
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 10))
LOCK := import fcntl; fcntl.flock(9, fcntl.LOCK_EX)

export TF_CPP_MIN_LOG_LEVEL ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow test-backends test-matrix lint docs clean

demo: $(INSTALLED)
	$(BIN)/python train.py --config=configs/digits.py --workdir=runs/digits
	@echo "See the gradient noise: $(BIN)/tensorboard --logdir=runs"

PYTEST := $(BIN)/python -m pytest --numprocesses=3 --dist=loadfile \
  --no-loadscope-reorder --durations=10

test: $(INSTALLED)
	$(PYTEST) -m "not slow"

# Notebooks, whole scripts, several workers, kills.
test-slow: $(INSTALLED)
	$(PYTEST) -m slow

# The library on JAX and on PyTorch, each without TensorFlow.
test-backends: $(INSTALLED)
	$(BIN)/python -m pip install --quiet tox
	$(BIN)/python -m tox run -q -e jax,torch

# On every release of tox.ini; a Python that is not there is skipped.
test-matrix: $(INSTALLED)
	$(BIN)/python -m pip install --quiet tox
	$(BIN)/python -m tox run

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(INSTALLED)
	rm -rf site
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet \
	  --fresh-env --doctree-dir .build/doctrees docs site
	@echo "The site begins at site/index.html"

# One shell, so that a second make waits until the first one's shell has ended,
# however it ends, and then finds the work done. An installation that was
# interrupted leaves its mark and is made anew; a working environment that
# someone else made is kept and completed.
$(INSTALLED): setup.py pyproject.toml keras_svag/version.py
	@echo "Installing keras_svag and what it needs into $(VENV) ..."
	@exec 9<$<; \
	$(PYTHON) -c '$(LOCK)' 2>/dev/null || $(BIN)/python -c '$(LOCK)' \
	  2>/dev/null; \
	test "$$(find $^ -newer $@ 2>&1)" || exit 0; \
	test ! -e $(UNFINISHED) && $(BIN)/python -m pip --version >/dev/null 2>&1 \
	  && $(BIN)/python -c '$(IS_NEW_ENOUGH)' || rm -rf $(BIN) $(VENV); \
	test -x $(BIN)/python || $(PYTHON) -c '$(IS_NEW_ENOUGH)' 2>/dev/null || { \
	  echo "keras_svag needs Python 3.10 or newer, but $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>/dev/null || echo not found). Name one:" \
	    "make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.10" >&2; \
	  exit 1; }; \
	set -e; \
	mkdir -p $(VENV); touch $(UNFINISHED); \
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	$(BIN)/python -m pip install --quiet --editable '.[test]'; \
	mv $(UNFINISHED) $@

clean:
	rm -rf $(BIN) $(VENV) .build build dist site jupyter_execute *.egg-info
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .tox
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
