"""How every inner loop here is compiled: by numba, without Python's lock, once, kept on disk.

numba keeps what it compiled by the file of the function and the types of its arguments. It does not notice when a
function that is called, from another file, has changed, or a number that is named there, and goes on with the old code:
after an update a result could be wrong without a word. Here all of that is part of what the code is kept by (`Kept`).
Nor does it look at what it has read: two processes that compile a function for the first time at once, for arguments of
different types, may give both the same file.

numba compiles in one thread. Where several functions are to be compiled for the first time, another process can do some
of them meanwhile (`elsewhere`): its code comes by the disk.

Kept code saves time and nothing else. Where it cannot be kept (no folder is writable, the disk is full) or read, a line
on stderr says so, and it is compiled again.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import inspect
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numba.core.sigutils import normalize_signature

_F = TypeVar("_F", bound=Callable[..., Any])
_PATIENCE_S = 60.0
_PACKAGE = __name__.partition(".")[0]


def compiled(function: _F) -> _F:
    """For Python to call. Sums are taken in the order that is written: their bits depend on nothing else."""
    return _compiled(function, {"contract"}, False)


def compiled_part(function: _F) -> _F:
    """As `compiled`, of a function that only other compiled ones call: it takes less time to compile."""
    return _compiled(function, {"contract"}, True)


def compiled_sums(function: _F) -> _F:
    """As `compiled_part`, for a long sum in another order, the same for every run: only so it becomes vectors."""
    return _compiled(function, {"contract", "reassoc"}, True)


def _compiled(function: _F, allowed: set[str], part: bool) -> _F:
    njit: Any = numba.njit  # its types leave out the last two: ways to call a function that nobody takes here
    dispatcher: Any = njit(
        nogil=True, fastmath=allowed, error_model="numpy", no_cfunc_wrapper=True, no_cpython_wrapper=part
    )(function)  # fmt: skip
    try:
        dispatcher._cache = Kept(function)  # type: ignore[no-untyped-call]  # as `cache=True` does
    except RuntimeError:  # numba looked for a folder
        _tell("compiled code cannot be kept: no folder can be written; set NUMBA_CACHE_DIR to one")
    return dispatcher  # type: ignore[no-any-return]


def elsewhere(functions: Iterable[Any], command: Sequence[str]) -> None:
    """Run a command that compiles `functions`, unless all are kept already; who needs one meanwhile waits for it."""
    caches = [function._cache for function in functions]
    if not all(isinstance(cache, Kept) for cache in caches) or all(cache.is_there() for cache in caches):
        return
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    atexit.register(_end, process)
    for kept in caches:
        kept.process, kept.until = process, time.monotonic() + _PATIENCE_S


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


class Kept(FunctionCache):
    """A function's compiled code on disk, valid as long as nothing that it is made of has changed."""

    process: subprocess.Popen[bytes] | None = None  # which is compiling it …
    until = 0.0  # … and is waited for until then

    def is_there(self) -> bool:
        """Whether there is code of the present sources, for arguments of whatever types."""
        with contextlib.suppress(Exception):  # a damaged file
            index = self._cache_file._load_index()  # type: ignore[no-untyped-call]
            return any(key[-1] == self._made_of for key in index)
        return False

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        while True:
            coming = self.process is not None and self.process.poll() is None and time.monotonic() < self.until
            found = super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
            if found is not None or not coming:
                return found
            time.sleep(0.02)

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super()._load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        wanted = normalize_signature(sig)[0]  # type: ignore[no-untyped-call]
        if found is not None and found.signature.args != wanted:
            raise ValueError(f"{self._py_func.__name__}: what is kept for {wanted} is for {found.signature.args}")
        return found

    @cached_property
    def _made_of(self) -> str:
        digest = hashlib.sha256()
        for item in sorted(_parts_of(self._py_func, set())):
            digest.update(item.encode())
        return digest.hexdigest()

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return *super()._index_key(sig, codegen), self._made_of  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - unpickling a damaged file can raise anything
            _tell(f"compiled code cannot be kept in {self.cache_path}", f": {type(error).__name__}: {error}")
            with contextlib.suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]


_told: set[str] = set()


def _tell(problem: str, detail: str = "") -> None:
    """Say it once, whatever the details."""
    if problem not in _told:
        _told.add(problem)
        print(f"als-analysis: {problem}{detail}", file=sys.stderr)


def _parts_of(function: Callable[..., Any], seen: set[Any]) -> Iterator[str]:
    """What a function's compiled code is made of: the files of our functions in it, and the values that they name."""
    seen.add(function)
    yield _digest(inspect.getfile(function))
    names = function.__globals__
    for name in sorted(_names_in(function.__code__) & names.keys()):
        value = names[name]
        if isinstance(value, Dispatcher):
            value = value.py_func
        elif not isinstance(value, FunctionType):
            value = getattr(value, "_defn", value)  # what an intrinsic is made from
        if isinstance(value, FunctionType):
            if value not in seen and value.__module__.partition(".")[0] == _PACKAGE:
                yield from _parts_of(value, seen)
        elif not (isinstance(value, ModuleType) or callable(value)):
            yield f"{function.__module__}.{name} = {_written(value)}"


def _written(value: Any) -> str:
    """A value that compiled code has in it, whole: of two that differ the words differ."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, (int, float, str, tuple, np.generic)):
        return repr(value)
    if isinstance(value, (ir.Type, ir.Constant)):
        return str(value)
    raise TypeError(f"compiled code names a {type(value).__name__}, whose changes would go unnoticed")


def _names_in(code: CodeType) -> set[str]:
    """Every global and attribute that code names, also in functions inside it."""
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return {*code.co_names}.union(*(_names_in(one) for one in inner))


@cache
def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
