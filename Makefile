# `make` lists the targets. All use .venv, made on first need by tools/setup_venv.py from requirements-*.txt.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
VENV := .venv
BIN := $(VENV)/bin
SETUP := tools/setup_venv.py
# The first that can run the package; python3 says which it needs where none can.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$python $(SETUP) --supported 2>/dev/null && { echo $$python; exit; }; done; echo python3)
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu*') CMakeLists.txt setup.py pyproject.toml models/en/pyproject.toml
CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu*')
STABLE_TORCH := $(shell sed -n 's/^set(STABLE_TORCH \(.*\))/-D\1/p' CMakeLists.txt)
CUDA := $(basename $(wildcard csrc/cuda/*.cu csrc/cuda/*.cpp))
NVCC ?= nvcc
# As cmake/cuda_architectures.cmake: all that are supported and that nvcc knows.
ARCHITECTURES ?= $(filter $(patsubst compute_%,%,$(shell $(NVCC) --list-gpu-arch)),75 80 90 100)
GENCODE ?= $(foreach a,$(ARCHITECTURES),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_$(lastword $(ARCHITECTURES)),code=compute_$(lastword $(ARCHITECTURES))

.PHONY: help build demo test coverage native-test native-test-aarch64 bench bench-smoke fuzz fuzz-native soak lint format hooks cuda-compile cuda-on-host cuda-ptx docs gpu gpu-build gpu-test gpu-soak gpu-test-cpu gpu-bench gpu-sanitize release-check wheel wheel-test clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 24

$(VENV)/.run: requirements-run.txt
	@$(PYTHON) $(SETUP) $(VENV) run
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt requirements-fastai.txt
	@$(BIN)/python $(SETUP) $(VENV) dev
	@touch $@

$(VENV)/.built: $(VENV)/.run $(NATIVE)
	@$(BIN)/python $(SETUP) $(VENV) build
	@touch $@

build: $(VENV)/.built  ## compile the native module and install the package, editable, into .venv

demo: build  ## the three stages on text that every installation carries; prints a table
	$(BIN)/ulmfit-fast demo --output demo-output

# A process a core, each with one thread: most tests are too small for more, and those about threads say how many.
test: build $(VENV)/.dev  ## run the tests
	$(BIN)/python -m pytest -q --numprocesses auto --dist loadfile tests

coverage: build $(VENV)/.dev  ## the tests, and which lines of Python they ran: build/coverage/index.html
	@mkdir -p build/coverage
	$(BIN)/python -m pytest -q --cov --cov-report=html --cov-report=term tests

# Where threads wait for each other is the same for every instruction set: ThreadSanitizer sees the portable one alone.
native-test: $(VENV)/.run  ## the kernels alone, without torch, under the sanitizers
	@for options in "address,undefined OFF" "thread ON"; do set -- $$options; build=build/native-test-$${1%%,*}; \
	  PATH="$(abspath $(BIN)):$$PATH" && cmake -S . -B $$build -G Ninja -DULMFIT_FAST_NATIVE_TESTS=ON \
	    -DULMFIT_FAST_SANITIZE=$$1 -DULMFIT_FAST_PORTABLE_ONLY=$$2 -DCMAKE_CXX_FLAGS_RELEASE=-O1 >/dev/null && \
	  cmake --build $$build >/dev/null && ctest --test-dir $$build --output-on-failure || exit 1; \
	done

# All that is read, with damage in it, in processes that may crash: MINUTES for each of the seven surfaces, other cases by SEED.
MINUTES ?= 10
SEED ?= $(shell date +%Y%m%d)
fuzz: build $(VENV)/.dev  ## damaged and hostile input, an hour (MINUTES=10 a surface, SEED=today): build/fuzz/finds.txt
	@mkdir -p build/fuzz
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED) --output build/fuzz/finds.txt

# Beside the sources, whose own module stays.
fuzz-native: build $(VENV)/.dev  ## the native ops alone, under the sanitizers: MINUTES and SEED as above
	@mkdir -p build/fuzz
	PATH="$(abspath $(BIN)):$$PATH" && eval cmake -S . -B build/asan -DCMAKE_BUILD_TYPE=Debug "'-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1'" \
	  -DULMFIT_FAST_SANITIZE=address,undefined "$$(python setup.py --print-cmake-arguments)" >/dev/null && \
	  cmake --build build/asan >/dev/null && rm -rf build/asan/tree && mkdir build/asan/tree && \
	  cp -r ulmfit_fast tests build/asan/tree/ && cp build/asan/_C*.so build/asan/tree/ulmfit_fast/
	cd build/asan/tree && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4000 \
	  UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 PYTHONPATH=. \
	  $(abspath $(BIN))/python -m tests.fuzz operations --minutes $(MINUTES) --seed $(SEED) --output $(abspath build/fuzz)/native.txt

soak: build $(VENV)/.dev  ## predictions in a loop beside training, an hour (MINUTES=60): flat memory, the same bits
	$(BIN)/python -m tools.soak --minutes $(MINUTES)

AARCH64_CXX ?= aarch64-linux-gnu-g++
AARCH64_RUN ?= qemu-aarch64
AARCH64_LIBRARIES ?= /usr/aarch64-linux-gnu
# Without sanitizers, which the emulator does not run.
native-test-aarch64: $(VENV)/.run  ## the kernels for AArch64 (NEON), cross-compiled, under an emulator
	@for tool in $(AARCH64_CXX) $(AARCH64_RUN); do command -v $$tool >/dev/null || { \
	  echo "native-test-aarch64: $$tool is not on PATH; on Debian: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }; done
	PATH="$(abspath $(BIN)):$$PATH" && cmake -S . -B build/native-test-aarch64 -G Ninja -DULMFIT_FAST_NATIVE_TESTS=ON \
	  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(AARCH64_CXX) \
	  "-DCMAKE_CROSSCOMPILING_EMULATOR=$(AARCH64_RUN);-L;$(AARCH64_LIBRARIES)" -DCMAKE_COMPILE_WARNING_AS_ERROR=ON >/dev/null && \
	  cmake --build build/native-test-aarch64 >/dev/null && ctest --test-dir build/native-test-aarch64 --output-on-failure

BENCH ?= build/bench/results
bench: build $(VENV)/.dev  ## layer and classifier beside torch.nn.LSTM and fastai, 50 minutes; table and charts in build/bench (or BENCH=path-without-suffix)
	mkdir -p $(dir $(BENCH))
	$(BIN)/python -m pytest -q benchmarks --benchmark-only --benchmark-json=$(BENCH).json --benchmark-columns=median,iqr,rounds
	$(BIN)/python -m benchmarks.report $(BENCH).json

bench-smoke: build $(VENV)/.dev  ## the benchmarks once, tiny: that they still run
	ULMFIT_FAST_BENCH=smoke $(BIN)/python -m pytest -q benchmarks --benchmark-disable

lint: $(VENV)/.dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

$(VENV)/.docs: $(VENV)/.dev requirements-docs.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

# Not quiet: mkdocs would neither show nor count the warnings that make a broken link an error.
docs: build $(VENV)/.docs  ## the documentation as a site in build/site, links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

format: $(VENV)/.dev  ## rewrite files in the project's style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

hooks: $(VENV)/.dev  ## check each commit as `make lint` does
	$(BIN)/pre-commit install

cuda-compile: $(VENV)/.run  ## compile csrc/cuda with nvcc for all architectures; needs no GPU; warnings, spilled registers too, are errors
	@command -v $(NVCC) >/dev/null || { echo "cuda-compile: $(NVCC) is not on PATH; install the CUDA toolkit" >&2; exit 1; }
	@$(MAKE) --no-print-directory -j$(shell nproc) $(CUDA:csrc/%=build/%.o) GENCODE="$(GENCODE)" \
	  TORCH_INCLUDES="$$($(BIN)/python -c 'from torch.utils.cpp_extension import include_paths; print(*("-isystem " + p for p in include_paths()))')"

define compile-cuda
	@mkdir -p build/cuda && echo "$(NVCC) $<"
	@$(NVCC) -std=c++20 -O3 $(GENCODE) --expt-relaxed-constexpr -Xcompiler -fPIC,-fvisibility=hidden,-Wall -Werror all-warnings -Xptxas -warn-spills \
	  $(STABLE_TORCH) -DUSE_CUDA $(TORCH_INCLUDES) -c $< -o $@
endef
build/cuda/%.o: csrc/cuda/%.cu $(NATIVE)
	$(compile-cuda)
build/cuda/%.o: csrc/cuda/%.cpp $(NATIVE)
	$(compile-cuda)

CUDA_ON_HOST := build/cuda-on-host/libcuda_on_host.so
cuda-on-host: build $(VENV)/.dev  ## compile csrc/cuda for the CPU, launches emulated, and test it there; needs neither GPU nor nvcc
	PATH="$(abspath $(BIN)):$$PATH" && eval cmake -G Ninja -S . -B $(dir $(CUDA_ON_HOST)) -DULMFIT_FAST_CUDA_ON_HOST=ON \
	  "$$($(BIN)/python setup.py --print-cmake-arguments)" >/dev/null && cmake --build $(dir $(CUDA_ON_HOST)) --target cuda_on_host
	ULMFIT_FAST_CUDA_ON_HOST=$(CUDA_ON_HOST) ULMFIT_FAST_TEST_DEVICE=cpu $(BIN)/python -m pytest -q \
	  tests/ops/test_cuda.py tests/ops/test_cuda_fused_step.py tests/ops/test_cuda_persistent.py tests/ops/test_cuda_launches.py tests/ops/test_cuda_soak.py tests/ops/test_every_op.py \
	  tests/ops/test_add_steps.py tests/ops/test_dropconnect_mask.py tests/ops/test_locked_dropout.py tests/nn/test_bpt3c.py \
	  --deselect tests/nn/test_bpt3c.py::test_a_document_does_not_depend_on_batch_padding_or_chunks  # which only the CPU's products allow

NVCC_OF_PYPI := build/nvcc/nvidia/cu13/bin/nvcc
$(NVCC_OF_PYPI): requirements-nvcc.txt | $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/nvcc -r $<
	@touch $@

CUDA_PTX := tests/native/test_ptx_machine.py tests/native/test_cuda_kernels.py tests/native/test_cuda_kernels_qrnn.py \
  tests/native/test_cuda_kernels_fused.py tests/native/test_cuda_kernels_persistent.py tests/native/test_cuda_sass.py
cuda-ptx: build $(VENV)/.dev  ## run the compiled PTX of every CUDA kernel on the CPU, checked for races; needs no GPU; brings nvcc where there is none
	@nvcc="$$(command -v $(NVCC))" || { $(MAKE) --no-print-directory $(NVCC_OF_PYPI) && nvcc="$(abspath $(NVCC_OF_PYPI))"; } && \
	  NVCC="$$nvcc" $(BIN)/python -m pytest -q $(CUDA_PTX)

GPU_PYTHON ?= python3
GPU_OUT ?= build/gpu
GPU_ARCHITECTURES ?= native
# What fails does not keep the rest from running. Each step has a time limit; with some 90 seconds of building on 16 cores
# they end within ten minutes (130 + 60 + 120 + 3 * 45 + 60).
gpu: gpu-build  ## on a machine with a GPU: build, test and benchmark with GPU_PYTHON's torch; results in GPU_OUT
	@status=0; for step in gpu-test gpu-soak gpu-bench gpu-sanitize gpu-test-cpu; do $(MAKE) --no-print-directory $$step || status=1; done; exit $$status

# CMake alone: setup() wants a newer setuptools than some machines that have all the rest.
gpu-build:
	@mkdir -p $(GPU_OUT)
	{ arguments="$$(ULMFIT_FAST_CUDA=1 $(GPU_PYTHON) setup.py --print-cmake-arguments)" && \
	  eval cmake -S . -B build/native-gpu "'-DULMFIT_FAST_CUDA_ARCHITECTURES=$(GPU_ARCHITECTURES)'" "$$arguments" && \
	  cmake --build build/native-gpu --parallel $(shell nproc) && cp build/native-gpu/_C*.so ulmfit_fast/; } >$(GPU_OUT)/build.log 2>&1 || { tail -40 $(GPU_OUT)/build.log; exit 1; }

# SIGINT, as pytest then still says what failed.
LIMIT := timeout --signal=INT --kill-after=5
gpu-test:
	@mkdir -p $(GPU_OUT)
	$(LIMIT) 130 $(GPU_PYTHON) -m pytest -q tests/ops/test_cuda.py tests/ops/test_cuda_fused_step.py tests/ops/test_cuda_persistent.py tests/ops/test_cuda_replay.py 2>&1 | tee $(GPU_OUT)/tests-cuda.log

gpu-soak:
	@mkdir -p $(GPU_OUT)
	ULMFIT_FAST_SOAK_SECONDS=12 $(LIMIT) 60 $(GPU_PYTHON) -m pytest -q tests/ops/test_cuda_soak.py 2>&1 | tee $(GPU_OUT)/soak.log

gpu-test-cpu:
	@mkdir -p $(GPU_OUT)
	$(LIMIT) 60 $(GPU_PYTHON) -m pytest -q tests/ops tests/nn/test_lstm.py tests/nn/test_lstm_edges.py tests/nn/test_awd_lstm.py --ignore tests/ops/test_instruction_sets.py --ignore-glob 'tests/ops/test_cuda*.py' 2>&1 | tee $(GPU_OUT)/tests-cpu.log

gpu-bench:
	@mkdir -p $(GPU_OUT)
	$(LIMIT) 40 $(GPU_PYTHON) -m benchmarks.cuda_steps --output $(GPU_OUT)/steps.json | tee $(GPU_OUT)/steps.md
	$(LIMIT) 80 $(GPU_PYTHON) -m benchmarks.cuda_layers --output $(GPU_OUT)/layers.json | tee $(GPU_OUT)/layers.md

# synccheck: threads that wait at different places. Without torch's cache of memory, whose blocks hide what reads beyond a tensor.
gpu-sanitize:
	@command -v compute-sanitizer >/dev/null || { echo "gpu-sanitize: compute-sanitizer is not on PATH; left out"; exit 0; }; \
	mkdir -p $(GPU_OUT); status=0; for tool in memcheck racecheck synccheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(LIMIT) 45 compute-sanitizer --tool $$tool --error-exitcode 1 $(GPU_PYTHON) -m pytest -q tests/ops/test_cuda.py tests/ops/test_cuda_fused_step.py tests/ops/test_cuda_persistent.py \
	    -k "(ragged or odd or chunks or blocks) and not float64" >$(GPU_OUT)/$$tool.log 2>&1; \
	  case $$? in 0) echo "$$tool: clean";; 124|137) echo "$$tool: stopped after 45 s"; tail -5 $(GPU_OUT)/$$tool.log; status=1;; \
	    *) echo "$$tool:"; tail -20 $(GPU_OUT)/$$tool.log; status=1;; esac; done; exit $$status

RELEASE := build/release
WHEEL := build/wheel
wheel: $(VENV)/.run  ## one wheel for every supported torch and Python, for machines as old as this one: build/wheel
	@$(BIN)/python $(SETUP) $(VENV) wheel
	$(BIN)/python tools/wheel.py build $(WHEEL)

# Two empty environments, each with a torch of its own: gigabytes where torch's index of CPU builds does not answer.
wheel-test: wheel  ## the wheel in empty environments with the oldest and the newest torch: the layer, the ops, a tiny fit
	$(BIN)/python tools/test_wheel.py $(WHEEL)/*.whl $(WHEEL)/environments

release-check: build  ## whether this commit can be released: version, changelog, sdist, wheel, metadata, known vulnerabilities
	@$(BIN)/python $(SETUP) $(RELEASE)/venv release
	$(BIN)/python tools/release_check.py $(RELEASE) $(RELEASE)/venv/bin/python

clean:  ## remove what was built, .venv included
	rm -rf $(VENV) build demo-output *.egg-info ulmfit_fast/_C*.so .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
