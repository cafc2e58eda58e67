"""Divides work over pages among the cores that this process may use.

The work is calls of the core, which release the GIL. Threads live only as long as one call of
`in_parts`, so there is none when a process forks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import count

PART = 1024
"""Pages in a part: 4 MiB, which takes about a hundred times as long as to start a thread."""
_CGROUPS = "/sys/fs/cgroup"
_LISTING = "/proc/self/cgroup"


def cores() -> int:
    """Return how many cores this process may use: by its affinity and by its control groups."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = os.cpu_count() or 1
    if allowed == 1:
        return 1
    return max(1, min([allowed, *_quotas()]))


def _quotas() -> list[int]:
    """Return the quota of each control group that this process is in, in whole cores."""
    found = []
    try:
        with open(_LISTING, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    for line in lines:
        _, _, controllers_path = line.partition(":")
        controllers, _, path = controllers_path.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = f"{_CGROUPS}/{controllers}" if controllers else _CGROUPS
        # In a container the path may be the host's, which is not there: the root is then our own.
        while True:
            quota = _quota(root + path.rstrip("/"), unified=not controllers)
            if quota is not None:
                found.append(quota)
            if path in ("", "/"):
                break
            path = path.rpartition("/")[0]
    return found


def _quota(folder: str, *, unified: bool) -> int | None:
    names = ("cpu.max",) if unified else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    words = []
    for name in names:
        try:
            with open(f"{folder}/{name}", encoding="ascii") as file:
                words += file.read().split()
        except (OSError, ValueError):
            return None
    try:
        quota, period = map(int, words)
    except ValueError:  # "max": no quota
        return None
    return quota // period if quota > 0 and period > 0 else None


def in_parts(total: int, work: Callable[[int, int], None], *, part: int = PART) -> None:
    """Call `work` for parts of a range, on as many threads as there are cores.

    Args:
        total: Length of the range.
        work: Takes the first number of a part and the number after its last. It is called by
            several threads at once, for each part once, in any order.
        part: Length of a part, except the last. The parts must be independent.

    Raises:
        BaseException: What the first call that failed has raised; parts may be left out then.
    """
    most = -(-total // part)
    if most < 2 or (threads := min(cores(), most)) < 2:
        if total:
            work(0, total)
        return
    numbers = count()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for number in numbers:
                if number >= most or failures:
                    return
                work(number * part, min((number + 1) * part, total))
        except BaseException as failure:  # noqa: BLE001 (raised below, on the thread that called)
            failures.append(failure)

    helpers: list[threading.Thread] = []
    try:
        for _ in range(threads - 1):
            helper = threading.Thread(target=run, name="wasmsr-pages", daemon=True)
            try:
                helper.start()
            except RuntimeError:  # no more threads on this host: those that there are do the work
                break
            helpers.append(helper)
        run()
    finally:
        for helper in helpers:
            helper.join()  # before the caller lets the memory go
    if failures:
        raise failures[0]
