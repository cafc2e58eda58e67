"""WASI preview 1: what a program may see of the host, and all of it that a snapshot must carry.

In reading order: `abi` (numbers and layouts), `mounts`, `resolve` (paths that cannot leave a
directory), `clocks`, `waiting`, `descriptors`, `process` (everything of WASI one program has), the
calls (`process_calls`, `fd_calls`, `path_calls`, `poll_calls`, `sock_calls`), `functions` (the
table of all of them), `unstable` (the older ABI), `capture` (state to plain data and back),
`preview1` (the `Wasi` object that the rest of the package uses).
"""
