"""WASI preview 1: the front between a program's calls and the rest of the room.

Only this wing and `state` know numbers of preview 1. In reading order: `abi` (numbers and
layouts), the calls (`process_calls`, `fd_calls`, `path_calls`, `poll_calls`, `sock_calls`),
`functions` (the table of all calls), `unstable` (the ABI of 2019).
"""
