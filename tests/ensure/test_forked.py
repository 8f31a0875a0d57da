from __future__ import annotations

import os
import signal
import threading

from tests.ensure.forked import Forked


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_any_thread_may_ask_how_a_process_ended() -> None:
    """multiprocessing's own answers 255 to one of them, now and then: about every second time here."""
    for _ in range(10):
        process = Forked(target=dies, daemon=True)
        process.start()
        others = [threading.Thread(target=process.join, args=(10,)) for _ in range(8)]
        for other in others:
            other.start()
        process.join(10)
        for other in others:
            other.join()
        assert process.exitcode == -signal.SIGKILL
