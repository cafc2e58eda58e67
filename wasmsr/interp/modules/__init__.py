"""Modules: bytes decoded and validated, described for Python."""
