"""Random testing: a moment of it in `make test`, longer by `make fuzz`, and campaigns by hand.

Each of these runs for as many seconds as it is told, prints its seed and what it did, and keeps
what it found; exit code 0 says that there was nothing:

- `python -m tests.fuzz.differential --seconds N [--seed S]`: modules with everything,
  under Wasmtime and here in all ways; findings in build/differential.
- `python -m tests.fuzz.folder FOLDER`: the same for .wasm files that another generator made.
- `python -m tests.fuzz.restoring N [S]`: snapshots of real programs with changed values, restored.
  `python -m tests.fuzz.test_snapshot N [S]`: damaged bytes, read.
- `python -m tests.fuzz.modules --seconds N [--seed S]`: damaged modules.
- `scripts/fuzz-module N`: libFuzzer with sanitizers on what the core does with a module; its corpus
  stays in build/fuzz/corpus.

The first four run under sanitizers too, with the environment that `make asan` sets. A finding
becomes a small test: of states in tests/snapshot/test_hostile_states.py, of code in tests/interp.
"""
