# `make demo` and `make test`, each from nothing: the first one that runs creates .venv and installs what is missing.
# Nothing here needs root; what only root can install is printed as a command. `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/edgernn-is-installed
# More words for the tool that a target runs: make test ARGS='-k manifest -x'
ARGS ?=
# Tests that run at a time. Each process loads TensorFlow, about 1 GB.
JOBS ?= 2
TOGETHER := -n $(JOBS) --dist loadgroup
# ruff does not go through the links edgernn/train and so on by itself; mypy and import-linter do.
CODE := edgernn edgernn/train edgernn/quantize edgernn/devices tests

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test slow torch arm lint format types contracts wheel bench faults compare clean

help:  ## list the targets
	sed -n 's/^\([a-z]*\):.*##  *\(.*\)/make \1\t\2/p' Makefile | expand -t 16

demo: $(READY)  ## convert a trained network, prove it, spot words in a recording, measure it
	$(warn_without_portaudio)
	export PATH="$(CURDIR)/$(BIN):$$PATH"
	show() { printf '\n$$ %s\n' "$$*"; "$$@"; }
	show edgernn convert train/pretrained/keyword-crnn -o demo/keyword --to tflite,onnx
	show edgernn inspect demo/keyword
	show edgernn verify demo/keyword
	show edgernn run demo/keyword train/pretrained/samples/demo.wav --fast
	show edgernn profile demo/keyword --seconds 5 --picture demo/profile.png
	printf '\nThe artifact is in demo/keyword, the picture of its latency in demo/profile.png.\n'

test: $(READY)  ## all tests but the slow ones, and the examples in the docstrings
	$(warn_without_portaudio)
	$(BIN)/pytest -m 'not slow and not torch and not arm' $(TOGETHER) $(ARGS)

slow: $(READY)  ## the tests that train, convert whole models, or build and install the wheel
	$(BIN)/pytest -m 'slow and not torch and not arm' $(TOGETHER) $(ARGS)

torch: $(READY)  ## the tests that build and export PyTorch modules; installs PyTorch
	$(BIN)/python -m pip install --quiet --prefer-binary --editable '.[torch]' 'torch==2.13.0'
	$(BIN)/pytest -m torch $(TOGETHER) $(ARGS)

arm: $(READY)  ## the wheel installed and run on an emulated 64-bit ARM board (needs Debian; 600 MB into .cache, once)
	$(BIN)/pytest -m arm -rs $(ARGS)

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

format: $(READY)  ## ruff: mend what can be mended
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

types: $(READY)  ## mypy, strict
	$(BIN)/mypy $(ARGS)

contracts: $(READY)  ## who may import whom (import-linter)
	$(BIN)/lint-imports $(ARGS)

wheel: $(READY)  ## sdist, and from it the wheel, into dist/
	$(BIN)/python -m build $(ARGS)

bench: $(READY)  ## one step against its peers, as in the README's table (ARGS=--quick for a first look)
	$(BIN)/python -m tests.benchmarks.step $(ARGS)

faults: $(READY)  ## every fault fifty times under a real daemon, as in the README's table (20 minutes, as root; ARGS='--only disk')
	$(BIN)/python -m tests.benchmarks.faults $(ARGS)

daemon: $(READY)  ## what the daemon costs at real time and beyond, with its peers (ARGS='--rounds 1 --seconds 0' for a first look)
	$(BIN)/edgernn convert train/pretrained/keyword-crnn -o demo/keyword --to tflite
	$(BIN)/python -m tests.benchmarks.daemon demo/keyword train/pretrained/samples/demo.wav $(ARGS)

compare: $(READY)  ## rolled Keras models through EdgeRNN and through other converters (about 25 minutes)
	$(BIN)/python -m tests.benchmarks.converters $(ARGS)

clean:  ## remove what was built and cached; leaves .venv and runs/
	rm -rf build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The environment. Done anew when pyproject.toml changes; a broken or half-made one is completed or replaced.
$(READY): pyproject.toml
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then
	    $(find_python)
	    echo "Creating $(VENV) with $$($$python --version)."
	    $$python -m venv --clear $(VENV)
	fi
	echo "Installing EdgeRNN and what it needs on a desktop (TensorFlow and more, about 3 GB, once)."
	$(BIN)/python -m pip install --prefer-binary --editable '.[dev]'
	touch $@

# Sets $$python. TensorFlow has wheels for these versions only.
define find_python
	python=""
	for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
	    version=$$($$candidate -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
	    case $$version in 3.10 | 3.11 | 3.12 | 3.13) python=$$candidate; break ;; esac
	done
	if [ -z "$$python" ]; then
	    echo "EdgeRNN needs Python 3.10 to 3.13 on a desktop, and found $$(python3 --version 2>/dev/null || echo none):"
	    echo "    sudo apt-get install python3 python3-venv"
	    echo "or, where the system's Python is newer, uv (https://docs.astral.sh/uv):  uv venv --seed --python 3.13 $(VENV)"
	    exit 1
	fi >&2
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then
	    echo "$$python cannot create environments, since this package is missing:"
	    echo "    sudo apt-get install python$$version-venv"
	    exit 1
	fi >&2
endef

define warn_without_portaudio
	if ! $(BIN)/python -c 'import ctypes.util, sys; sys.exit(not ctypes.util.find_library("portaudio"))'; then
	    echo "PortAudio is missing. All works without it except the microphone; for that:"
	    echo "    sudo apt-get install libportaudio2"
	fi >&2
endef
