# `make` lists the targets. All use .venv, made on first need from requirements-dev.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu') CMakeLists.txt setup.py pyproject.toml
CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu')
CUDA := $(wildcard csrc/cuda/*.cu)
NVCC ?= nvcc
CUDA_ARCHITECTURE ?= sm_90

.PHONY: help build demo test native-test bench bench-smoke lint format cuda-compile clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

$(VENV)/.ready: requirements-dev.txt requirements-fastai.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-fastai.txt
	touch $@

$(VENV)/.built: $(VENV)/.ready $(NATIVE)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

build: $(VENV)/.built  ## compile the native module and install the package, editable, into .venv

demo: build  ## the three stages on text that every installation carries; prints a table
	$(BIN)/ulmfit-fast demo --output demo-output

test: build  ## run the tests
	$(BIN)/python -m pytest -q tests

native-test: $(VENV)/.ready  ## the kernels alone, without torch, under the sanitizers
	@for sanitizers in address,undefined thread; do \
	  build=build/native-test-$${sanitizers%%,*}; \
	  PATH="$(abspath $(BIN)):$$PATH" && cmake -S . -B $$build -G Ninja -DULMFIT_FAST_NATIVE_TESTS=ON \
	    -DULMFIT_FAST_SANITIZE=$$sanitizers -DCMAKE_CXX_FLAGS_RELEASE=-O1 >/dev/null && cmake --build $$build >/dev/null && \
	  ctest --test-dir $$build --output-on-failure || exit 1; \
	done

BENCH ?= build/bench/results
bench: build  ## layer and classifier beside torch.nn.LSTM and fastai, 40 minutes; table and charts in build/bench (or BENCH=path-without-suffix)
	mkdir -p $(dir $(BENCH))
	$(BIN)/python -m pytest -q benchmarks --benchmark-only --benchmark-json=$(BENCH).json --benchmark-columns=median,iqr,rounds
	$(BIN)/python -m benchmarks.report $(BENCH).json

bench-smoke: build  ## the benchmarks once, tiny: that they still run
	ULMFIT_FAST_BENCH=smoke $(BIN)/python -m pytest -q benchmarks --benchmark-disable

lint: $(VENV)/.ready  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

format: $(VENV)/.ready  ## rewrite files in the project's style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

cuda-compile: $(VENV)/.ready  ## compile csrc/cuda with nvcc against this torch's headers; needs no GPU
	@command -v $(NVCC) >/dev/null || { echo "cuda-compile: $(NVCC) is not on PATH; install the CUDA toolkit" >&2; exit 1; }
	@mkdir -p build/cuda
	@includes="$$($(BIN)/python -c 'from torch.utils.cpp_extension import include_paths; print(" ".join("-isystem " + p for p in include_paths()))')"; \
	for source in $(CUDA); do \
	  echo "$(NVCC) $$source"; \
	  $(NVCC) -std=c++20 -O3 -arch=$(CUDA_ARCHITECTURE) --expt-relaxed-constexpr -Xcompiler -fPIC,-Wall \
	    -DC10_CUDA_NO_CMAKE_CONFIGURE_FILE -DC10_USING_CUSTOM_GENERATED_MACROS $$includes \
	    -c $$source -o build/cuda/$$(basename $$source .cu).o || exit 1; \
	done

clean:  ## remove what was built, .venv included
	rm -rf $(VENV) build demo-output *.egg-info ulmfit_fast/_C*.so .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
