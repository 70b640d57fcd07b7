# Everything a user or CI calls. Needs Python 3.11 or newer and make; installs the rest into .venv.
# On Linux without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves gigabytes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := handler.py src tests builder benchmarks
PAGES := README.md $(wildcard docs/*.md)

.PHONY: run serve test lint format docs lock stand-in codegen-check reference-check image-check
.PHONY: clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

run: $(VENV)/installed  ## edit an image, from job to saved file
	@$(BIN)/python -m kontext.demo

PORT ?= 8000
serve: $(VENV)/installed  ## Runpod's API on this machine, PORT=8000
	@$(BIN)/python -m kontext.local --port $(PORT)

test: $(VENV)/installed .venv-s3/installed  ## run every test
	$(BIN)/python -m pytest

lint: $(VENV)/installed  ## ruff, mypy, hadolint, and whether the tables in docs/ are up to date
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/cog --check -I builder $(PAGES)

format: $(VENV)/installed  ## format the code
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(VENV)/installed  ## write the tables in docs/ anew
	$(BIN)/cog -r -I builder $(PAGES)

# What only torch's CUDA build needs is left out: torch pins it itself, and its CPU build does not.
CUDA = '^(triton|cuda|nvidia)-?'
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
    --no-annotate --no-header
lock: $(VENV)/installed  ## resolve pyproject.toml into the locks in builder/
	$(COMPILE) pyproject.toml | grep -vE $(CUDA) > builder/requirements.txt
	$(COMPILE) --group dev -c builder/requirements.txt | grep -vE $(CUDA) \
	    > builder/requirements-dev.txt
	echo ministack==1.5.33 | $(COMPILE) - > builder/requirements-s3.txt

stand-in: $(VENV)/installed  ## train the stand-in anew, in an hour of one core
	PYTHONPATH=builder:benchmarks $(BIN)/python -m stand_in.train

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

clean:  ## remove what was installed and built
	rm -rf .venv .venv-s3 .venv-cuda build output
