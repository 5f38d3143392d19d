# Every target sets up what it needs in .venv/ first; a second call starts at once.
PYTHON ?= python3
PORT ?= 7860
BIN := .venv/bin

RUN := .venv/.ready-run
DEV := .venv/.ready-dev

.PHONY: setup demo train test test-quick test-slow loadtest lint check format docs wheel audit lock clean

setup: $(RUN)

$(RUN): requirements/run.lock
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(DEV): requirements/dev.lock $(RUN)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	touch $@

demo: $(RUN)  ## the page, with the shipped version
	$(BIN)/python demo.py --port $(PORT)

train: $(RUN)  ## configs/default.yaml on CIFAR-10; DATA=dir for a local copy
	$(BIN)/cifar-lit fit --config configs/default.yaml --data.download true $(if $(DATA),--data.root $(DATA))

test: $(DEV)
	$(BIN)/pytest -m "not slow" -n 2 --dist loadscope

test-quick: $(DEV)  ## what takes under a minute: no server, no browser, no training
	$(BIN)/pytest -m "not slow and not long" -n 2 --dist loadscope

test-slow: $(DEV)
	$(BIN)/pytest -m slow

loadtest: $(DEV)  ## 20 users for 30 s against a server of its own; fails on any wrong answer or a slow p95
	$(BIN)/python benchmarks/loadtest.py

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DEV)  ## docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html

wheel: $(DEV)
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

audit: $(DEV)  ## known weaknesses of what is locked, its licences, and a list of it all (SBOM); asks public services
	$(BIN)/python -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit pip-licenses
	build/audit/bin/pip-audit --require-hashes --disable-pip -r requirements/dev.lock
	build/audit/bin/pip-audit --require-hashes --disable-pip -r requirements/dev.lock -f cyclonedx-json -o build/sbom.json
	build/audit/bin/pip-licenses --python $(BIN)/python --order license

lock:  ## needs uv
	uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --quiet --upgrade -o requirements/dev.lock
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra serve --extra interop \
		-c requirements/dev.lock \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --upgrade -o requirements/run.lock

clean:
	rm -rf .venv build *.egg-info
