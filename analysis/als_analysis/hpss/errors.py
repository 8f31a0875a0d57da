"""What can go wrong with an archive, beside what als_analysis.failure knows. The codes are sysexits where one fits."""

from __future__ import annotations

from als_analysis.failure import PREEMPTED, Failure


class SourceChanged(Failure):
    """A file on disk is missing, unreadable, or not the one that the request describes."""

    exit_code = 3


class HpssUnavailable(Failure):
    """HPSS is down or does not answer: nothing is known about what is on tape. Try again later."""

    exit_code = 69


class NotWhole(Failure):
    """What is on tape is not what the archive must hold; nothing was removed. It needs a new archive name."""

    exit_code = 70


class ExistsOtherwise(Failure):
    """There is other content under this name, on tape or on disk; it was not touched."""

    exit_code = 73


class HpssRefused(Failure):
    """HPSS answers and refuses: quota, permission, or a use of its tools that is wrong. A person has to look."""

    exit_code = 74


class TryAgain(Failure):
    """HPSS asks to be tried again later, or its tool was killed."""

    exit_code = PREEMPTED
