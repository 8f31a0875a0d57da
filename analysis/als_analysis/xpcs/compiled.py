"""How every inner loop here is compiled: by numba, without Python's lock, once, kept on disk.

The kept code of a function holds that of the functions it calls, also from other files, whose changes numba does not
notice: who changes one empties the caches (`__pycache__/*.nb?`). An installation has files of one time, or a new path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """For Python to call. Sums are taken in the order that is written: their bits depend on nothing else."""
    return _compiler({"contract"}, False)(function)


def compiled_part(function: _F) -> _F:
    """As `compiled`, of a function that only other compiled ones call: it takes less time to compile."""
    return _compiler({"contract"}, True)(function)


def compiled_sums(function: _F) -> _F:
    """As `compiled_part`, for a long sum in another order, the same for every run: only so it becomes vectors."""
    return _compiler({"contract", "reassoc"}, True)(function)


def _compiler(allowed: set[str], part: bool) -> Callable[[_F], _F]:
    njit: Any = numba.njit  # its types leave out the last two: ways to call a function that nobody takes here
    compiler: Callable[[_F], _F] = njit(
        nogil=True,
        cache=True,
        fastmath=allowed,
        error_model="numpy",
        no_cfunc_wrapper=True,
        no_cpython_wrapper=part,
    )
    return compiler
