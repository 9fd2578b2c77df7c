# make demo: install and run distviz on the embedded demo model
# make test: install and pass the tests; ARGS=… is passed on to pytest
# make extended: more tests: real models, several processes, kills, every documented command line
# make oracles: compare number formats with torchao, in a folder of its own
# make slow: the tests that take minutes each
# make lint: linters, types, import rules (make dev: only install what they need)
# make docs: the documentation, in docs/_build
# make lowest: a part of the tests with the lowest versions that pyproject.toml allows
#
# Everything is installed into .venv and nowhere else. PYTHON=… names the interpreter that makes it.

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
FILES := pyproject.toml constraints.txt

export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX
.NOTPARALLEL:
.PHONY: help demo test extended oracles slow lint docs dev lowest

help:
	@sed -n 's/^# make/make/p' Makefile

demo: .venv/installed
	@$(BIN)/distviz run

test: .venv/installed-test
	@$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

extended: .venv/installed-test
	@$(BIN)/pytest -n 2 --dist worksteal -m "extended and not slow" $(ARGS)

oracles: .venv/oracles/torchao
	@PYTHONPATH=.venv/oracles $(BIN)/pytest -m oracle $(ARGS)

.venv/oracles/torchao: constraints.txt | .venv/installed-test
	@$(BIN)/python -m pip install --quiet --upgrade --no-deps -c constraints.txt --target .venv/oracles torchao
	@touch $@

slow: .venv/installed-test
	@$(BIN)/pytest -n 2 --dist worksteal -m slow $(ARGS)

dev: .venv/installed-dev

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed-dev
	$(BIN)/sphinx-build -q -n -W --keep-going docs docs/_build

lowest: $(BIN)/python
	@.ci/lowest $(BIN)/python

# The environment: made once, an existing one is used as it is.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it: make PYTHON=…" >&2; exit 2; }
	@echo "making .venv with $(PYTHON)" >&2
	@$(PYTHON) -m venv .venv
	@rm -f .venv/installed*

# A larger installation holds the smaller ones, so that it is not undone by them.
.venv/installed: EXTRAS :=
.venv/installed-test: EXTRAS := [test]
.venv/installed-dev: EXTRAS := [dev]
.venv/installed .venv/installed-test .venv/installed-dev: $(FILES) | $(BIN)/python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@echo "installing distviz$(EXTRAS) into .venv; the first time this takes minutes" >&2
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.$(EXTRAS)' >&2
	@touch .venv/installed $(if $(EXTRAS),.venv/installed-test) $@
