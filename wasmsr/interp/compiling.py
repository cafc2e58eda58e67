"""Native code in the background: a thread that makes it of functions that have run often enough.

The core counts, and keeps a list of such functions for each module. The thread looks at the lists
from time to time. It holds the lock of the interpreter only for that: the core compiles without it,
while the program runs on. There is one such thread in a process. It ends when no module is left
whose functions it could compile.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref

from wasmsr._ffi import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.interp.modules.module import Module

SHORTEST, LONGEST = 0.002, 0.05
"""Seconds between two looks: fewer while functions come, more while none do."""
AT_ONCE = 32
"""Functions of one module for which a fork, or the end of the process, waits."""

_modules: weakref.WeakSet[Module] = weakref.WeakSet()
_lock = threading.Lock()
"""Of the modules and the thread."""
_work = threading.Lock()
"""Held while the core compiles. A fork waits for it: so no child has a function half made."""
_thread: threading.Thread | None = None
_stop = threading.Event()


def add(module: Module) -> None:
    """Let functions of a module get native code when they have run often enough."""
    with _lock:
        _modules.add(module)


def begin() -> None:
    """Start the thread of this process if there is none. Without one the interpreter runs on."""
    global _thread
    if _thread is not None:
        return
    with _lock:
        if _thread is None:
            _thread = threading.Thread(target=_run, name="wasmsr compiler", daemon=True)
            try:
                _thread.start()
            except RuntimeError:  # the system allows no more threads; a later run tries again
                _thread = None


def work() -> int:
    """Compile what waits now, on this thread; return how many functions that were."""
    with _lock:
        modules = list(_modules)
    made = 0
    for module in modules:
        with _work:
            made += int(lib.wsr_native_work(module.c, AT_ONCE))
    return made


def _run() -> None:
    global _thread
    pause = SHORTEST
    while not _stop.wait(pause):
        pause = SHORTEST if work() else min(2 * pause, LONGEST)
        with _lock:
            if not _modules:
                _thread = None
                return


def _end() -> None:
    """Stop before the process ends: the core must not run while Python takes itself apart."""
    _stop.set()
    thread = _thread
    if thread is not None and thread is not threading.current_thread():
        thread.join()


def _in_child() -> None:
    """Begin anew: a child has neither the thread nor a right to what the locks say."""
    global _thread, _lock, _work
    _thread = None
    _lock = threading.Lock()
    _work.release()


atexit.register(_end)
os.register_at_fork(before=_work.acquire, after_in_parent=_work.release, after_in_child=_in_child)
