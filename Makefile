# Everything a user or CI calls. Needs Python 3.11 or newer and make; installs the rest into .venv.
# On Linux without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves gigabytes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := handler.py src tests builder benchmarks
PAGES := README.md $(wildcard docs/*.md)

.PHONY: help run serve test test-fast coverage lint format docs lock stand-in codegen-check
.PHONY: reference-check image-check image wheel release-check clean

##@ Use it

help:  ## list the targets
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/installed  ## edit an image, from job to saved file
	@$(BIN)/python -m kontext.demo

PORT ?= 8000
serve: $(VENV)/installed  ## Runpod's API on this machine, PORT=8000
	@$(BIN)/python -m kontext.local --port $(PORT)

##@ Check it

# Twice as many processes as the two cores of CI: many tests wait for servers and workers.
PROCESSES ?= 4
PARALLEL := -n $(PROCESSES) --dist worksteal
test: $(VENV)/installed .venv-s3/installed  ## run every test, PROCESSES=4
	$(BIN)/python -m pytest $(PARALLEL)

# Those that need no S3 server, worker process or model, and do not import torch.
FAST := tests/contract tests/images tests/jobs tests/inference/test_mode.py \
    tests/storage/test_location.py tests/storage/test_object_key.py tests/test_address_policy.py \
    tests/test_fuzz.py tests/test_layers.py tests/test_links.py tests/test_logs.py \
    tests/test_settings.py
test-fast: $(VENV)/installed  ## run the tests that need less than a minute
	$(BIN)/python -m pytest $(PARALLEL) $(FAST)

coverage: $(VENV)/installed .venv-s3/installed  ## run every test and show what none reaches
	$(BIN)/python -m pytest $(PARALLEL) --cov=kontext

lint: $(VENV)/installed  ## ruff, mypy, hadolint, zizmor, and whether the pages' tables are up to date
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms \
	    .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml
	$(BIN)/zizmor --offline --quiet .github/workflows
	$(BIN)/cog --check -I builder $(PAGES)

codegen-check: .venv-cuda/installed  ## compile the CUDA code of every plan, no GPU (5 GB)
	PYTHONPATH=src:builder:benchmarks .venv-cuda/bin/python -m codegen_check

# The checkout is the caller's, and needs einops, which nothing else here does.
EINOPS := build/einops-0.8.2
reference-check: $(VENV)/installed $(EINOPS)  ## compare with Black Forest Labs' code, BFL=FOLDER
	PYTHONPATH=$(EINOPS):builder:benchmarks $(BIN)/python -m reference_check.check "$(BFL)"

$(EINOPS):
	$(BIN)/python -m pip install --quiet --no-deps --target $@ einops==0.8.2

image-check: codegen-check  ## build the image's steps without a registry (Debian, root, buildah)
	builder/image-check.sh

##@ Change it

format: $(VENV)/installed  ## format the code
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(VENV)/installed  ## write the pages' tables
	$(BIN)/cog -r -I builder $(PAGES)

# What only torch's CUDA build needs is left out: torch pins it itself, and its CPU build does not.
CUDA = '^(triton|cuda|nvidia)-?'
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
    --no-annotate --no-header
lock: $(VENV)/installed  ## resolve pyproject.toml into the locks in builder/
	$(COMPILE) pyproject.toml | grep -vE $(CUDA) > builder/requirements.txt
	$(COMPILE) pyproject.toml --extra local --group dev -c builder/requirements.txt \
	    | grep -vE $(CUDA) | grep -vxFf builder/requirements.txt > builder/requirements-dev.txt
	echo ministack==1.5.33 | $(COMPILE) - > builder/requirements-s3.txt

stand-in: $(VENV)/installed  ## train the stand-in, in an hour of one core
	PYTHONPATH=builder:benchmarks $(BIN)/python -m stand_in.train

clean:  ## remove what was installed and built
	rm -rf .venv .venv-s3 .venv-cuda build dist output

##@ Release it

image:  ## build the worker's container image, IMAGE=you/kontext
	docker build --platform linux/amd64 --tag "$(IMAGE)" .

wheel: $(VENV)/installed  ## build the wheel into dist/
	rm -rf build/lib  # or the wheel would hold modules that are no longer there
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

release-check:  ## check that TAG=v1.2.3 names the version, and print its release notes
	@$(PYTHON) builder/release.py

.venv-cuda/installed: $(VENV)/installed
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-cuda
	$(BIN)/uv pip install --quiet --python .venv-cuda/bin/python -r builder/requirements.txt
	@touch $@

$(VENV)/installed: pyproject.toml builder/requirements.txt builder/requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11+ is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -r builder/requirements.txt \
	    -r builder/requirements-dev.txt
	$(BIN)/python -m pip install --no-deps --editable .
	@touch $@

# ministack pins an older botocore than ours, so it lives apart.
.venv-s3/installed: builder/requirements-s3.txt
	$(PYTHON) -m venv .venv-s3
	.venv-s3/bin/python -m pip install -r builder/requirements-s3.txt
	@touch $@
