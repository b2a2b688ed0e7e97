# Everything needed on a fresh machine: `make demo` or `make test`. `make help` lists the rest.
#
#   PYTHON  the Python (>= 3.10) that makes the virtual environment   [python3]
#   VENV    the virtual environment that is made and used             [.venv]
#
# In an environment of your own, run the commands of CONTRIBUTING.md by hand instead.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
BENCH_ARGS ?=
RESNET18 ?= runs/resnet18/model.safetensors

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CPP := $(foreach kind,h cpp cuh cu,$(wildcard csrc/*.$(kind) csrc/*/*.$(kind)))
SOURCES := pyproject.toml setup.py $(CPP)
# A stamp's name says what it stands for; it is as old as the last successful installation.
TORCH := $(VENV)/.stamp-torch
PACKAGE := $(VENV)/.stamp-package
DEV := $(VENV)/.stamp-dev
RIVALS := $(VENV)/.stamp-bench

.DEFAULT_GOAL := help
.PHONY: help install demo test test-large lint format asan bench gpu-check gpu-bench clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(PACKAGE) ## set up the virtual environment and build the extension

demo: $(PACKAGE) ## set up, then defend sample images; pictures go to out/
	$(BIN)/hcnn-fast demo

test: $(PACKAGE) ## set up, then run the whole test suite
	OMP_NUM_THREADS=1 HCNN_FAST_REQUIRED_BACKENDS=cpu $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

test-large: $(PACKAGE) ## set up, then run the tests with more than 2^31 entries (14 GB of memory)
	$(BIN)/python -m pytest -m large tests/ops/test_large.py $(PYTEST_ARGS)

lint: $(DEV) ## check format, style and types of Python and C++
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(DEV) ## rewrite Python and C++ in the house format
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# The operations' tests run from a copy of the package whose extension is instrumented.
ASAN := LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 UBSAN_OPTIONS=print_stacktrace=1 \
  HCNN_FAST_REQUIRED_BACKENDS=cpu $(abspath $(BIN))/python

asan: $(PACKAGE) ## run the operations' tests under AddressSanitizer and UndefinedBehaviorSanitizer
	rm -rf build/asan && mkdir -p build/asan && cp -r hcnn_fast build/asan/
	rm -f build/asan/hcnn_fast/_C*.so
	HCNN_FAST_SANITIZE=1 $(BIN)/python setup.py --quiet build_ext --build-lib build/asan
	cd build/asan && $(ASAN) -c "import hcnn_fast._C as c; assert 'build/asan' in c.__file__, c"
	cd build/asan && $(ASAN) -m pytest -c ../../pyproject.toml --rootdir ../.. -p no:cacheprovider \
	  ../../tests/ops -k "not emulated and not triton and not cuda and not planted" $(PYTEST_ARGS)

bench: $(RIVALS) ## run the benchmarks; results go to out/bench.json
	mkdir -p out
	$(BIN)/python -m pytest bench -W default --benchmark-only --benchmark-json=out/bench.json $(BENCH_ARGS)

gpu-check: ## on a machine with a GPU and torch: build with CUDA, test, compute-sanitizer, benchmarks
	@command -v "$(PYTHON)" >/dev/null || { echo "gpu-check: $(PYTHON) is not found" >&2; exit 1; }
	@"$(PYTHON)" -c "import sys, importlib.util as u; u.find_spec('torch') or sys.exit('gpu-check: this python3 has no torch; activate an environment that has')"
	@"$(PYTHON)" -c "import sys, torch; torch.cuda.is_available() or sys.exit('gpu-check: torch sees no CUDA device')"
	HCNN_FAST_BUILD_CUDA=1 "$(PYTHON)" -m pip install --quiet --no-index --no-deps --no-build-isolation -e .
	HCNN_FAST_REQUIRED_BACKENDS=cpu,cuda,triton "$(PYTHON)" -m pytest $(PYTEST_ARGS)
	@command -v compute-sanitizer >/dev/null || { echo "gpu-check: compute-sanitizer is not found" >&2; exit 1; }
	for tool in memcheck racecheck initcheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 99 \
	    "$(PYTHON)" -m pytest -q tests/ops/test_gpu.py -m sanitizer -p no:cacheprovider || exit 1; \
	done
	mkdir -p out
	"$(PYTHON)" -m pytest bench/bench_pgd_step.py bench/bench_label_objective.py -W default \
	  --benchmark-only --benchmark-json=out/bench-gpu.json

# RESNET18 names trained weights; the data sets are where HCNN_FAST_DATA says.
gpu-bench: ## after gpu-check: the search beside its rivals, and 10,000 CIFAR-10 images
	mkdir -p out
	for graphs in 0 1; do \
	  RESNET18="$(RESNET18)" HCNN_FAST_CUDA_GRAPHS=$$graphs \
	    "$(PYTHON)" -m pytest bench/bench_rivals.py -W default --benchmark-only \
	    --benchmark-json=out/rivals-gpu-graphs-$$graphs.json $(BENCH_ARGS) || exit 1; \
	done
	"$(PYTHON)" bench/memory_of_predict.py --data cifar10 --model resnet18 --checkpoint "$(RESNET18)" \
	  --device cuda --precision bfloat16 > out/predict-gpu.json

clean: ## remove what was built, but neither the virtual environment nor out/
	rm -rf build dist *.egg-info hcnn_fast/_C*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find hcnn_fast kernels tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f $(PACKAGE) $(DEV) $(RIVALS)

# torch first and apart: the extension is built against the torch that runs.
$(TORCH):
	@command -v "$(PYTHON)" >/dev/null || { echo "make: $(PYTHON) is not found; set PYTHON" >&2; exit 1; }
	@"$(PYTHON)" -c "import sys; sys.version_info >= (3, 10) or sys.exit('make: $(PYTHON) is Python %d.%d, need 3.10 or newer; set PYTHON' % sys.version_info[:2])"
	@"$(PYTHON)" -c "import ensurepip, venv" 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments (Debian: apt install python3-venv)" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(PIP) install --upgrade pip "setuptools>=77" wheel ninja
	$(PIP) install "torch>=2.11" torchvision
	touch $@

$(PACKAGE): $(TORCH) $(SOURCES)
	$(PIP) install --quiet --no-build-isolation -e ".[cli,test]"
	touch $@

$(DEV): $(PACKAGE)
	$(PIP) install --quiet --no-build-isolation -e ".[cli,test,dev]"
	touch $@

$(RIVALS): $(PACKAGE)
	$(PIP) install --quiet --no-build-isolation -e ".[cli,test,bench]"
	touch $@
