"""Mapped snapshots: files that are mapped in place of a program's memories.

- `admission`: which files have been checked, so that their pages need not be read again;
- `saving`: makes such a file, and admits it;
- `opening`: opens an admitted one without reading its pages.
"""
