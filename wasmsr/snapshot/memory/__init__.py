"""The memories of a program as pages of 4 KiB, before anything is encoded.

- `parts`: divides work among the cores;
- `page_engine`: the core's functions over pages, with Python's types.
"""
