"""The multi-tau sums on a GPU through torch; everything else (bins, g2, parts, checkpoints) is the CPU's.

Only on request (`--device cuda`): torch is no dependency, and on a CPU it gains nothing. It has not been run on a GPU
yet: what the tests hold to the CPU's answer at 1e-6 is this same code, with numpy in torch's place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import BadArguments
from als_analysis.workers import Workers
from als_analysis.xpcs.multitau import Correlator
from als_analysis.xpcs.state import LANES, Mark, State
from als_analysis.xpcs.tiles import Pixels

_REACH, _SUMMED = 8, 3


class NumpyBackend:
    """The few array operations that are needed, by numpy: for tests, and to say what a backend is."""

    def put(self, array: NDArray[Any]) -> Any:
        return array

    def get(self, array: Any) -> NDArray[Any]:
        return np.asarray(array)

    def join(self, one: Any, other: Any) -> Any:
        return np.concatenate([one, other])

    def f32(self, array: Any) -> Any:
        return array.astype(np.float32)

    def product_sum(self, one: Any, other: Any) -> Any:
        return np.einsum("tp,tp->p", one, other, dtype=np.float64)

    def total(self, array: Any) -> Any:
        return array.sum(axis=0, dtype=np.float64)


class TorchBackend:
    """The same on a CUDA device; raises `BadArguments` where there is no torch or no device."""

    def __init__(self) -> None:
        try:
            import torch  # type: ignore[import-not-found]
        except ImportError as error:
            raise BadArguments("--device cuda: torch is not installed here; --device cpu needs nothing") from error
        if not torch.cuda.is_available():
            raise BadArguments("--device cuda: torch finds no CUDA device here")
        self._torch = torch
        self.name = str(torch.cuda.get_device_name())

    def put(self, array: NDArray[Any]) -> Any:
        if array.dtype in (np.uint16, np.uint32):  # torch computes with few of the unsigned types
            array = array.astype(np.int32 if array.dtype == np.uint16 else np.int64)
        return self._torch.from_numpy(np.ascontiguousarray(array)).to("cuda", non_blocking=True)

    def get(self, array: Any) -> NDArray[Any]:
        return np.asarray(array.cpu().numpy())

    def join(self, one: Any, other: Any) -> Any:
        return self._torch.cat([one, other])

    def f32(self, array: Any) -> Any:
        return array.to(self._torch.float32)

    def product_sum(self, one: Any, other: Any) -> Any:
        return (one * other).sum(dim=0, dtype=self._torch.float64)

    def total(self, array: Any) -> Any:
        return array.sum(dim=0, dtype=self._torch.float64)


class DeviceCorrelator(Correlator):
    """A `Correlator` whose sums live on a device; the state comes to the host when g2, maps or a copy are asked for."""

    def __init__(self, frames: int, pixels: Pixels, workers: Workers, backend: Any) -> None:
        super().__init__(frames, pixels, workers)
        self._on = backend
        self._index = backend.put(pixels.used)
        self._to_device(self.state)

    def _to_device(self, state: State) -> None:
        lanes = self.pixels.lane_of_used
        levels = self.lags.levels

        def rows(array: NDArray[Any]) -> list[Any]:  # (T, rows, 64) to one (pixels,) array per row
            return [self._on.put(array[:, row].reshape(-1)[lanes].copy()) for row in range(array.shape[1])]

        self._sums = rows(state.sums)
        self._total = self._on.put(state.total.reshape(-1)[lanes].copy())
        self._recent = [
            self._on.put(np.stack([state.recent[:, level, r].reshape(-1)[lanes] for r in range(_REACH)]))
            for level in range(levels)
        ]
        self._first = [
            self._on.put(np.stack([state.first[:, level, r].reshape(-1)[lanes] for r in range(_REACH)]))
            for level in range(levels)
        ]

    def sync(self) -> None:
        """Bring the device's state to `self.state`."""
        lanes, state = self.pixels.lane_of_used, self.state

        def place(target: NDArray[Any], values: Any) -> None:
            whole = np.zeros(self.pixels.tiles * LANES, dtype=target.dtype)
            whole[lanes] = self._on.get(values)
            target[...] = whole.reshape(-1, LANES)

        for row, values in enumerate(self._sums):
            place(state.sums[:, row], values)
        place(state.total, self._total)
        for level in range(self.lags.levels):
            for r in range(_REACH):
                place(state.recent[:, level, r], self._recent[level][r])
                place(state.first[:, level, r], self._first[level][r])

    def add(self, raw: NDArray[Any], scale: NDArray[np.float32]) -> None:
        on = self._on
        x = on.f32(on.put(raw)[:, self._index]) * on.put(scale)[:, None]
        seen = self.state.seen
        for level in range(self.lags.levels):
            n = len(x)
            if n == 0:
                break
            window = on.join(self._recent[level], x)
            base = 0 if level == 0 else _REACH + _REACH // 2 * (level - 1)
            lowest = 1 if level == 0 else _REACH // 2 + 1
            for step in range(lowest, _REACH + 1):
                part = on.product_sum(window[_REACH - step : _REACH - step + n], x)
                self._sums[base + step - lowest] = self._sums[base + step - lowest] + part
            known = int(min(seen[level], _REACH))
            if known < _REACH:
                self._first[level] = on.join(on.join(self._first[level][:known], x), self._first[level])[:_REACH]
            waiting = self._recent[level][-1:]  # for the other sample of its pair, if the number of samples is odd
            self._recent[level] = window[n:]
            if level == min(_SUMMED, self.lags.levels - 1):
                self._total = self._total + on.total(x)
            if seen[level] % 2 == 1:
                x = on.join(waiting, x)
            pairs = len(x) // 2
            x = on.f32(0.5 * (x[0 : 2 * pairs : 2] + x[1 : 2 * pairs : 2]))
        self.state.frames += len(raw)

    def g2(self, since: Mark | None = None, note: Mark | None = None) -> Any:
        self.sync()
        return super().g2(since, note)
