# One-word commands. `make demo` and `make test` need nothing but Python 3.10+ and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where a CPU build of torch comes from another index, say so:
# make test PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
ORT_CUDA := .venv-ort-cuda
CLIENTS := .venv-clients
BROWSER := tests/serve/browser

.PHONY: demo test stand-in clients test-slow coverage lint docs format wheel release-check miniature clean

demo: $(VENV)/demo.installed  ## Export the miniature and answer all 15 tasks about a picture
	$(BIN)/florence-export miniature --output demo/bundle --overwrite
	$(BIN)/python -m florence_edge_calibration.miniature demo/bundle demo

test: $(VENV)/dev.installed $(BROWSER)/node_modules/installed  ## Run the tests (torch and transformers are the reference), one process a core
	$(BIN)/python -m pytest -q -n auto --dist worksteal

stand-in: $(VENV)/dev.installed $(ORT_CUDA)/installed  ## Run the real CUDA provider over stand-ins for CUDA (g++, Python 3.11)
	FLORENCE_EDGE_ORT_CUDA=$(CURDIR)/$(ORT_CUDA) $(BIN)/python -m pytest -q tests/cuda_stand_in

clients: $(VENV)/dev.installed $(CLIENTS)/installed  ## Run florence-serve under Roboflow's client and schemathesis
	FLORENCE_EDGE_CLIENTS=$(CURDIR)/$(CLIENTS)/bin/python $(BIN)/python -m pytest -q -m slow tests/serve

test-slow: $(VENV)/dev.installed $(BROWSER)/node_modules/installed  ## Run what takes minutes or gigabytes
	$(BIN)/python -m pytest -q -m slow

coverage: $(VENV)/dev.installed $(BROWSER)/node_modules/installed  ## What the tests run, by file
	$(BIN)/python -m pytest -q --cov --cov-report=term --cov-report=html:coverage

docs: $(VENV)/dev.installed  ## Build the documentation into site/, without the network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/dev.installed  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(VENV)/dev.installed
	$(BIN)/python -m pip wheel -q --no-deps -w dist .

release-check:  ## Build what would be released, and try it in fresh environments
	scripts/check_release.sh dist/check

miniature: $(VENV)/dev.installed  ## Train the miniature again from its seed (an hour or two on 2 cores)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m florence_edge_calibration.miniature.train --work miniature

# playwright-core and axe-core, which drive the page in Chromium; without npm its tests are skipped.
$(BROWSER)/node_modules/installed: $(BROWSER)/package-lock.json
	@if ! command -v npm >/dev/null; then echo "There is no npm: the tests of the page are skipped."; \
	elif npm ci --prefix $(BROWSER) --ignore-scripts --no-audit --no-fund; then touch $@; \
	else echo "npm ci failed: the tests of the page are skipped."; fi

clean:
	rm -rf $(VENV) $(ORT_CUDA) $(CLIENTS) demo dist site coverage

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Clients whose pins differ from those of this project.
$(CLIENTS)/installed:
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install -q --disable-pip-version-check \
		"inference-sdk>=1.8,<2" "schemathesis>=4,<5"
	touch $@

# No environment to run in: a folder with ONNX Runtime for CUDA, CUDA's headers and NVRTC.
$(ORT_CUDA)/installed: | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target $(ORT_CUDA) \
		"onnxruntime-gpu>=1.28" "nvidia-cuda-runtime>=13,<14" "nvidia-cuda-crt>=13,<14" \
		"nvidia-cuda-nvrtc>=13,<14"
	touch $@

$(VENV)/demo.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[cpu,export]"
	touch $@

$(VENV)/dev.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install -q --disable-pip-version-check \
		-e ".[cpu,export,verify,supervision,bench,docs,dev]"
	touch $@
