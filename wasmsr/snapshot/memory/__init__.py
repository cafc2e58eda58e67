"""The memories of a program as pages of 4 KiB, before anything is encoded.

- `parts`: divides work among the cores;
- `page_engine`: the core's functions over pages, with Python's types;
- `space_name`: what tells spaces apart;
- `page_calls`: system calls over pages, with types and exceptions;
- `bases`: the files under memories;
- `dirty_pages`: which pages were written since a consumer asked last.
"""
