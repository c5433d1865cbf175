# Everything here works from a fresh clone with Python 3.11+, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-cluster test-weights test-tools test-reference image-test image-drive release-check lint format docs pins clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/runtime: requirements/runtime.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is required; try: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/dev: requirements/dev.txt $(VENV)/runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

# Linters for deploy/, 36 MB, in a separate environment: their dependencies conflict with the tests'.
$(VENV)/deploy: requirements/deploy.txt
	@test -x $(VENV)/checkers/bin/python || $(PYTHON) -m venv $(VENV)/checkers
	$(VENV)/checkers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/deploy.txt
	@touch $@

demo: $(VENV)/runtime ## Segment a photo offline with the built-in model; writes demo/mask.png and demo/overlay.png
	$(BIN)/python scripts/demo.py

serve: $(VENV)/runtime ## Serve in development mode on 127.0.0.1:11368
	@echo "osamd: http://127.0.0.1:$${PORT:-11368}/playground   API docs: http://127.0.0.1:$${PORT:-11368}/docs"
	@echo "try:   curl 'http://127.0.0.1:$${PORT:-11368}/api/generate?point=225,150' -H 'Accept: image/png' --data-binary @examples/cat.jpg -o mask.png"
	APP_ENV=development $(BIN)/osamd serve

# More than cores, since some tests wait for limits in seconds and leave a core idle meanwhile.
TEST_PROCESSES ?= 3

# pytest rewrites assertions on import; unless it may keep the result, each process does so anew, for seconds.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/dev ## Run the tests in TEST_PROCESSES (3) parallel processes
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

$(VENV)/proof: requirements/proof.txt $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/proof.txt
	@touch $@

# The real annotation tools, each in an environment of its own: their dependencies conflict. A tool needs
# requirements/tool-NAME.txt and its name here.
TOOLS := label-studio labelme roboflow x-anylabeling
.venv-tools/%/made: requirements/tool-%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

test-tools: $(VENV)/dev $(TOOLS:%=.venv-tools/%/made) ## Drive the real annotation tools against a server (installs them, 4 GB)
	$(BIN)/python -m pytest -m tools tests/tools $(PYTEST_ARGS)

# Ray, 500 MB, in an environment of its own, so that all other tests run as most people run osamd.
.venv-cluster/made: requirements/runtime.txt requirements/dev.txt requirements/cluster.txt pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	for list in runtime dev cluster; do \
		$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/$$list.txt || exit 1; \
	done
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

# Where it is allowed, in a network that has loopback alone.
test-cluster: .venv-cluster/made ## Run a Ray cluster on this machine and kill its parts (installs Ray, 500 MB)
	if unshare --net true 2>/dev/null; then around='unshare --net sh -c'; else around='sh -c'; fi; \
	$$around 'ip link set lo up 2>/dev/null; exec .venv-cluster/bin/python -m pytest -m cluster tests/cluster $(PYTEST_ARGS)'

proof: $(VENV)/proof ## Run schemathesis and the fuzzers, for PROOF_S (60) seconds each
	$(BIN)/python -m pytest -m proof -s tests/proof $(PYTEST_ARGS)

test-weights: $(VENV)/dev ## Pull every real model (10 GB, from the internet) and compare it with osam on a photo
	$(BIN)/python -m pytest -m weights -s tests/weights $(PYTEST_ARGS)

test-reference: $(VENV)/dev ## Compare SAM and everything mode with the authors' own code on random weights (installs PyTorch)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps segment-anything-py==1.0.1
	$(BIN)/python -m pytest -m reference -s tests/reference $(PYTEST_ARGS)

.PHONY: bench bench-quick bench-blobs bench-rembg
BENCH_CACHE := $(or $(OSAMD_BENCH_CACHE),$(HOME)/.cache/osamd-bench)
EXPORT := .venv-export

$(EXPORT)/made: pyproject.toml
	test -x $(EXPORT)/bin/python || $(PYTHON) -m venv $(EXPORT)
	$(EXPORT)/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(EXPORT)/bin/python -m pip install --quiet --disable-pip-version-check --group bench-export
	$(EXPORT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps segment-anything-py==1.0.1
	@touch $@

bench-blobs: $(VENV)/dev
	@$(BIN)/python -m benchmarks.recipe '$(BENCH_CACHE)' || { \
		$(MAKE) $(EXPORT)/made && $(EXPORT)/bin/python -W ignore -m benchmarks.blobs '$(BENCH_CACHE)'; }

# Its first import compiles for a minute.
bench-rembg: .venv-tools/rembg/made ## Install rembg, 0.8 GB, so that the benchmarks measure it as well
	.venv-tools/rembg/bin/rembg s --help > /dev/null

bench: bench-blobs ## Benchmark against osam and plain ONNX Runtime; writes benchmarks/results (45 minutes; first run installs PyTorch)
	$(BIN)/python -m benchmarks.run

bench-quick: bench-blobs ## The same with fewer samples; writes benchmarks/results/quick (10 minutes)
	$(BIN)/python -m benchmarks.run --quick

.PHONY: train tune training-pictures
TRAINING := .venv-train
TRAINING_FOLDER := $(or $(OSAMD_TRAINING_FOLDER),$(HOME)/.cache/osamd-training)
# Steps of the first stage and of the last round of tuning, as the weights in the package were trained; what is tuned.
TRAINING_STEPS ?= 5800
TUNING_STEPS ?= 3600
TUNED_GRAPHS ?= training/exact

$(TRAINING)/made: requirements/runtime.txt pyproject.toml
	test -x $(TRAINING)/bin/python || $(PYTHON) -m venv $(TRAINING)
	$(TRAINING)/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(TRAINING)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	$(TRAINING)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	$(TRAINING)/bin/python -m pip install --quiet --disable-pip-version-check --group training
	@touch $@

training-pictures: $(TRAINING)/made
	grep -qs '"package": "coco"' '$(TRAINING_FOLDER)/manifest.json' || $(TRAINING)/bin/python -m training.prepare '$(TRAINING_FOLDER)'

train: training-pictures ## Train the built-in network from nothing, or resume, and put it into the package (Debian; hours on two cores)
	$(TRAINING)/bin/python -m training.train '$(TRAINING_FOLDER)' --steps $(TRAINING_STEPS) --resume
	$(TRAINING)/bin/python -W ignore -m training.export '$(TRAINING_FOLDER)/checkpoint.pt' '$(TRAINING_FOLDER)/untuned'
	$(MAKE) tune TUNED_GRAPHS='$(TRAINING_FOLDER)/untuned'

tune: training-pictures ## Train training/exact further, or resume, and update the package (Debian; over an hour on two cores)
	$(TRAINING)/bin/python -m training.train '$(TRAINING_FOLDER)' --tune '$(TUNED_GRAPHS)' --steps $(TUNING_STEPS) --resume
	$(TRAINING)/bin/python -W ignore -m training.ship '$(TRAINING_FOLDER)' --first-steps $(TRAINING_STEPS) --start '$(TUNED_GRAPHS)'

image-test: $(VENV)/dev ## Build the container image with buildah and test it with podman (needs root on Debian)
	scripts/image-build cpu
	$(MAKE) image-drive

image-drive: $(VENV)/dev ## Test the built image OSAMD_IMAGE with OSAMD_CONTAINER_TOOL
	$(BIN)/python -m pytest -m image tests/image $(PYTEST_ARGS)

release-check: $(VENV)/dev ## Build sdist and wheel, install them into empty environments and segment a photo offline
	$(BIN)/python scripts/release_check.py --tag "$(TAG)"

lint: $(VENV)/dev $(VENV)/deploy ## Check style, types, imports, generated docs, deploy/, secrets and advisories; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/reference.py --check
	scripts/lint-deploy $(VENV)/checkers/bin
	scripts/lint-secrets $(VENV)/checkers/bin
	scripts/audit $(VENV)/checkers/bin

format: $(VENV)/dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev ## Regenerate docs/reference from the code
	$(BIN)/python scripts/reference.py

pins: $(VENV)/dev ## Update requirements/ to the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/pin

clean: ## Remove everything make has created
	rm -rf $(VENV) .venv-cluster $(EXPORT) $(TRAINING) .venv-tools demo dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
