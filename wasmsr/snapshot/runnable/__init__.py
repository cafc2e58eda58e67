"""Snapshots that any WebAssembly engine resumes: the core, a module and a state as one module.

`core.wasm` is our core, compiled to WebAssembly with a small program around it (`guest/`). `export`
puts a state into it, `importing` reads what the program writes when it is saved there.
"""
