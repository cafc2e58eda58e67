"""The sections of a snapshot, one file each; `encoding.registry` finds them.

The base class `encoding.section.Section` says what a section declares. docs/snapshot-format.md,
section 5, specifies the payloads.
"""
