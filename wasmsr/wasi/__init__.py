"""WASI: what a program may see of the host, and what of it a snapshot must carry.

The wings, in the order of their imports: `streams`, `filesystem`, `preview1` (the calls), `state`
(snapshots). Beside them: `engine` (what WASI uses of the engine), `syscalls`, `clocks`, `process`
(everything of WASI that one program has) and `facade` (the `Wasi` object that the rest of the
package uses).
"""
