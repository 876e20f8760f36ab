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
JAVASCRIPT := tests/js
TRANSFORMERS_JS := tests/export/transformers_js
PROPERTIES := $(addprefix tests/,runtime/test_parse.py runtime/test_regions.py runtime/test_external_data.py \
	export/test_checkpoint_config.py export/test_checkpoint_tensors.py)

.PHONY: demo install test stand-in clients test-slow coverage lint docs format wheel release-check miniature int8-table clean

demo: $(VENV)/demo.installed  ## Export the miniature and answer all 15 tasks about a picture
	$(BIN)/florence-export miniature --output demo/bundle --overwrite
	$(BIN)/python -m florence_edge_calibration.miniature demo/bundle demo

install: $(VENV)/dev.installed $(BROWSER)/node_modules/installed  ## All that the tests need

test: install  ## Run the tests (torch and transformers are the reference), one process a core
	$(BIN)/python -m pytest -q -n auto --dist worksteal

stand-in: $(VENV)/dev.installed $(ORT_CUDA)/installed  ## Run the real CUDA provider over stand-ins for CUDA (g++, Python 3.11)
	FLORENCE_EDGE_ORT_CUDA=$(CURDIR)/$(ORT_CUDA) $(BIN)/python -m pytest -q tests/cuda_stand_in

clients: $(VENV)/dev.installed $(CLIENTS)/installed  ## Run florence-serve under Roboflow's client and schemathesis
	FLORENCE_EDGE_CLIENTS=$(CURDIR)/$(CLIENTS)/bin/python $(BIN)/python -m pytest -q -m slow tests/serve

test-slow: install $(JAVASCRIPT)/node_modules/installed $(TRANSFORMERS_JS)/node_modules/installed $(ORT_CUDA)/installed  ## Run what takes minutes or gigabytes, and property tests at length
	FLORENCE_EDGE_ORT_CUDA=$(CURDIR)/$(ORT_CUDA) $(BIN)/python -m pytest -q -m slow
	FLORENCE_EDGE_THOROUGH=1 $(BIN)/python -m pytest -q -n auto --dist worksteal $(PROPERTIES)

coverage: install  ## What the tests run, by file
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

# Both precisions for all three targets, an hour on 2 cores: results/int8/miniature.json.
int8-table: $(VENV)/dev.installed  ## What int8 and int4 cost the miniature: docs/int8.md's table
	$(BIN)/florence-export miniature --output quantized/float32 --overwrite
	$(BIN)/florence-export miniature --precision int8 --target cpu --output quantized/int8-cpu --overwrite
	$(BIN)/florence-export miniature --precision int8 --target tensorrt --output quantized/int8-tensorrt --overwrite
	for each in int8-portable int4-tensorrt int4-cpu int4-portable; do \
	$(BIN)/florence-export miniature --precision $${each%-*} --target $${each#*-} --calibration quantized/int8-cpu/calibration.json \
	--output quantized/$$each --overwrite || exit 1; \
	done
	$(BIN)/python -m florence_edge_calibration.miniature.publish --bundle quantized/float32 \
	--int8 "int8 tensorrt=quantized/int8-tensorrt" "int8 cpu=quantized/int8-cpu" "int8 portable=quantized/int8-portable" \
	"int4 tensorrt=quantized/int4-tensorrt" "int4 cpu=quantized/int4-cpu" "int4 portable=quantized/int4-portable"

# transformers.js, which loads what florence-export --layout writes; without npm its tests are skipped.
$(TRANSFORMERS_JS)/node_modules/installed: $(TRANSFORMERS_JS)/package-lock.json
	@if ! command -v npm >/dev/null; then echo "There is no npm: the tests of transformers.js are skipped."; \
	elif ONNXRUNTIME_NODE_INSTALL=skip npm ci --prefix $(TRANSFORMERS_JS) --ignore-scripts --no-audit --no-fund; then touch $@; \
	else echo "npm ci failed: the tests of transformers.js are skipped."; fi

# playwright-core and axe-core, which drive the page in Chromium; without npm its tests are skipped.
$(BROWSER)/node_modules/installed: $(BROWSER)/package-lock.json
	@if ! command -v npm >/dev/null; then echo "There is no npm: the tests of the page are skipped."; \
	elif npm ci --prefix $(BROWSER) --ignore-scripts --no-audit --no-fund; then touch $@; \
	else echo "npm ci failed: the tests of the page are skipped."; fi

# Both ONNX Runtimes of npm, for the slow tests of js/. Their binaries are in the packages: without
# the variable one would fetch more from elsewhere.
$(JAVASCRIPT)/node_modules/installed: $(JAVASCRIPT)/package-lock.json
	@if ! command -v npm >/dev/null; then echo "There is no npm: the tests of js/ are skipped."; \
	elif ONNXRUNTIME_NODE_INSTALL=skip npm ci --prefix $(JAVASCRIPT) --ignore-scripts --no-audit --no-fund; \
	then touch $@; else echo "npm ci failed: the slow tests of js/ are skipped."; fi

clean:
	rm -rf $(VENV) $(ORT_CUDA) $(CLIENTS) demo quantized dist site coverage

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
