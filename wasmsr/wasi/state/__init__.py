"""The state of WASI in snapshots: to plain data, checked, and back.

In reading order: `contents` (chunks of files), `manifest` (directory trees as plain data),
`tree_restore` (a tree of the host from a manifest), `origin` (the host that a state comes from),
`capture`, `checked_state` (a state read as hostile input), `restore`.
"""
