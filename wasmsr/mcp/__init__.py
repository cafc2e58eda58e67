"""Sandboxes for language models: a server of the Model Context Protocol.

The protocol is that of modelcontextprotocol.io; the package `mcp`, which is its official SDK,
speaks it.
"""
