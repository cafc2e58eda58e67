"""Types of the C core for the type checker: cffi's objects are dynamic."""

from typing import Any

ffi: Any
lib: Any
