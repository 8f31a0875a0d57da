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
    """Sums are taken in the order that is written: their bits depend on nothing else."""
    compiler: Any = numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
    faster: _F = compiler(function)
    return faster


def compiled_sums(function: _F) -> _F:
    """For a long sum in another order, the same for every run: only so it becomes vectors."""
    compiler: Any = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc"}, error_model="numpy")
    faster: _F = compiler(function)
    return faster
