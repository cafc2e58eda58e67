"""The official test scripts (WebAssembly/testsuite), run against wasmsr: see `runner`."""
