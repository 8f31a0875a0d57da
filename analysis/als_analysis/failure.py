"""What can go wrong, and the exit code that each kind ends with.

A command of this package prints one last line on stderr, which names the file and the path or parameter at fault, and
exits with the code of the failure's class. Only `PREEMPTED` (and a death by signal) is worth a retry: every other
failure would come again with the same input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

OK = 0
PREEMPTED = 75


class Failure(Exception):
    """A failure with a reason for people and an exit code for machines."""

    exit_code = 1


class BadArguments(Failure):
    """The command line, a layout document or a request is wrong."""

    exit_code = 2


class RawFileError(Failure):
    """The raw file is missing, unreadable, cut off, or has no frames where its layout says."""

    exit_code = 3


class QMapError(Failure):
    """The q-map or ROI is unreadable, empty, of another shape than the frames, or breaks its own rules."""

    exit_code = 4


class OutputExists(Failure):
    """A result is there already and `--overwrite` was not given; nothing was touched."""

    exit_code = 5


class MetadataMissing(Failure):
    """A number that the analysis cannot do without (frame time, geometry) is in neither the file nor the layout."""

    exit_code = 6


class OutOfMemory(Failure):
    """The analysis does not fit into the memory that it was given."""

    exit_code = 7


class OutputError(Failure):
    """The output cannot be written: no such directory, no permission, disk full."""

    exit_code = 8


class Preempted(Failure):
    """SIGTERM or SIGUSR1 came; what was done is kept where the command says so. Run it again."""

    exit_code = PREEMPTED


def one_line(text: str, limit: int = 1000) -> str:
    """`text` as a single printable line of at most `limit` characters: file names are hostile input."""
    cleaned = "".join(c if c.isprintable() else " " for c in text)
    cleaned = " ".join(cleaned.split())
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


def run_command(name: str, main: Callable[[], int]) -> int:
    """Run `main` and turn its failures into one last line on stderr and an exit code.

    Anything that is not a `Failure` is a defect of this package: its traceback is shown, and the last line says so.
    """
    try:
        return main()
    except Failure as failure:
        print(f"{name}: {one_line(str(failure))}", file=sys.stderr)
        return failure.exit_code
    except MemoryError as error:
        print(f"{name}: out of memory: {one_line(str(error)) or 'an allocation was refused'}", file=sys.stderr)
        return OutOfMemory.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
