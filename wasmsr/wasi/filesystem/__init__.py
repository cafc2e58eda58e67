"""Files of the host that a program may see: mounts, paths, kinds of trees, open files.

In reading order: `mounts` (what was granted), `path_resolution` (paths that cannot leave a
directory), `open_files`, `trees`, `memory_tree`, `overlay`, `mount_trees` (the tree of a mount),
and what these use: `private_folders`, `archives`, `tree_walk`, `unnoticed` (reading that nobody
notices).
"""
