"""A pool of threads that share out the parts of one loop; the work itself must let go of Python's lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

PARTS_PER_THREAD = 4  # so that a core that others use as well does not hold up the rest


def available_cores() -> int:
    """Cores that this process may use: what a batch system gave it, not what the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """`threads` threads for computing and one for reading ahead; used as a context manager."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._compute = ThreadPoolExecutor(threads, thread_name_prefix="compute")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="ahead")

    def share(self, work: Callable[[int, int], None], count: int) -> None:
        """Call work(begin, end) for parts that cover 0 … count, at once; raises what any part raised."""
        parts = min(count, self.threads * PARTS_PER_THREAD)
        if parts <= 1 or self.threads == 1:
            if count > 0:
                work(0, count)
            return
        edges = [count * i // parts for i in range(parts + 1)]
        futures = [self._compute.submit(work, a, b) for a, b in pairwise(edges)]
        for future in futures:
            future.result()

    def in_order(
        self, numbers: range, worker: Callable[[], Callable[[int], Any]], take: Callable[[int, Any], bool]
    ) -> bool:
        """take(n, work(n)) for each number in order, one at a time; worker() makes each thread's own `work`.

        What is taken is so the same whatever the number of threads. Ends early, giving False, when `take` gives False.
        """
        coming, lock = iter(numbers), threading.Lock()
        waiting: dict[int, Any] = {}
        over = False
        following = numbers.start

        def go_on() -> None:
            nonlocal over, following
            work = worker()
            try:
                while True:
                    with lock:
                        number = None if over else next(coming, None)
                    if number is None:
                        return
                    found = work(number)
                    with lock:
                        waiting[number] = found
                        while not over and following in waiting:
                            over = not take(following, waiting.pop(following))
                            following += numbers.step
            except BaseException:
                over = True
                raise

        futures = [self._compute.submit(go_on) for _ in range(min(self.threads, len(numbers)))]
        for future in futures:
            future.result()
        return not over

    def ahead(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start something that is needed later."""
        return self._ahead.submit(work, *arguments)

    def close(self) -> None:
        self._compute.shutdown(cancel_futures=True)
        self._ahead.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
