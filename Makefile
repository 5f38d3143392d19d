# Every target sets up what it needs in .venv/ first; a second call starts at once.
PYTHON ?= python3
PORT ?= 7860
BIN := .venv/bin

SERVE := .venv/.ready-serve
TRAIN := .venv/.ready-train
DEV := .venv/.ready-dev
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps

.PHONY: setup demo train test test-quick test-slow coverage benchmarks-smoke loadtest lint check format docs wheel \
	audit lock clean

setup: $(DEV)

$(SERVE): requirements/serve.lock
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(INSTALL) --require-hashes -r $<
	$(INSTALL) --no-build-isolation --editable .
	touch $@

$(TRAIN): requirements/train.lock $(SERVE)
	$(INSTALL) --require-hashes -r $<
	touch $@

$(DEV): requirements/dev.lock $(TRAIN)
	$(INSTALL) --require-hashes -r $<
	touch $@

demo: $(SERVE)  ## the page, with the shipped version
	$(BIN)/python demo.py --port $(PORT)

train: $(TRAIN)  ## configs/default.yaml on CIFAR-10; DATA=dir for a local copy
	$(BIN)/cifar-lit fit --config configs/default.yaml --data.download true $(if $(DATA),--data.root $(DATA))

# Two workers on two cores; with more threads each, they wait for each other.
test test-quick test-slow coverage benchmarks-smoke: export OMP_NUM_THREADS = 1

test: $(DEV)
	$(BIN)/pytest -m "not slow" -n 2 --dist loadscope

QUICK := audit augment batcher class_arguments comparison extras feed forgetting_report gate image_folder image_set \
	images increment inference_v2 integrity jitter line loader login logs manifest model_card npz occlusion \
	official optimizers plots predictor promotion quota registry replay replies \
	request_limits schedules scratch seeding serving_metrics sources synthetic uploads \
	weight_interpolation weights weights_npz

test-quick: $(DEV)  ## what takes under a minute: no server, no browser, no training
	$(BIN)/pytest -m "not slow" -n 2 --dist loadscope $(QUICK:%=tests/test_%.py)

test-slow: $(DEV)
	$(BIN)/pytest -m slow -n 2 --dist loadscope

coverage: $(DEV)  ## lines that `make test` runs, in every process
	$(BIN)/pytest -m "not slow" -n 2 --dist loadscope --cov

benchmarks-smoke: $(DEV)  ## every benchmark with tiny sizes
	$(BIN)/python benchmarks/smoke.py

loadtest: $(DEV)  ## 20 users for 30 s against a server of its own; fails on any wrong prediction or a slow p95
	$(BIN)/python benchmarks/loadtest.py

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini

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

LOCK := uv pip compile pyproject.toml requirements/build.in --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --quiet

lock:  ## needs uv; `make lock UPGRADE=--upgrade` for newer releases
	$(LOCK) --extra dev $(UPGRADE) -o requirements/dev.lock
	$(LOCK) --extra all -c requirements/dev.lock -o requirements/train.lock
	$(LOCK) --extra serve -c requirements/dev.lock -o requirements/serve.lock

clean:
	rm -rf .venv build *.egg-info
