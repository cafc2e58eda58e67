"""The names of native functions, for Linux's `perf`: `wasmsr run --perf-map`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from wasmsr._ffi import ffi, lib
from wasmsr.interp.store.store import Store


def perf_map(store: Store) -> Iterator[str]:
    """Yield a line for each function with native code, as Linux's `perf` reads them.

    Source: tools/perf/Documentation/jit-interface.txt of Linux.
    """
    counts = ffi.new("wsr_store_counts *")
    lib.wsr_store_count(store.c, counts)
    view, function = ffi.new("wsr_native_view *"), ffi.new("wsr_function_view *")
    for address in range(counts.functions):
        for metered in (0, 1):
            if not lib.wsr_native_code(store.c, address, metered, view):
                continue
            lib.wsr_function(store.c, address, function)
            name = store.instances[function.instance].module.function_name(function.index)
            start = int(ffi.cast("uintptr_t", view.code))
            counted = " with counts" * metered
            yield f"{start:x} {view.bytes:x} {' '.join(name.split())}{counted}\n"


def write_perf_map(store: Store) -> str:
    """Write the map where `perf report` looks for that of this process; return the file's name.

    Raises:
        OSError: The file cannot be written.
    """
    path = f"/tmp/perf-{os.getpid()}.map"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w",
              encoding="utf-8", errors="replace") as file:  # fmt: skip
        file.writelines(perf_map(store))
    return path
