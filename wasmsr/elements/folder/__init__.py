"""Folders of elements: reading, checking, drawing, and the graph as JSON."""
