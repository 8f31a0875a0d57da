"""The device backend's arithmetic, with numpy in torch's place, against the CPU path."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from als_analysis.failure import BadArguments
from als_analysis.workers import Workers
from als_analysis.xpcs.cuda import DeviceCorrelator, NumpyBackend, TorchBackend
from als_analysis.xpcs.multitau import Correlator
from als_analysis.xpcs.tiles import arrange


@pytest.mark.parametrize("cuts", [[0, 3, 40, 41, 333], [0, 333], [0, 1, 2, 200, 333]])
def test_it_gives_the_cpus_g2_error_and_parts(cuts: list[int]) -> None:
    rng = np.random.default_rng(0)
    movie = rng.poisson(20 * rng.exponential(size=(333, 500))).astype(np.uint16)
    used = np.flatnonzero(rng.random(500) < 0.9)
    static = np.arange(len(used)) * 6 // len(used)
    scale = (1.0 / movie[:, used].mean(axis=1)).astype(np.float32)
    found = []
    with Workers(1) as workers:
        pixels = arrange(500, used, static, static // 3)
        for correlator in (Correlator(333, pixels, workers), DeviceCorrelator(333, pixels, workers, NumpyBackend())):
            mark = None
            for a, b in pairwise(cuts):
                correlator.add(movie[a:b], scale[a:b])
                if b == cuts[-2]:
                    mark = correlator.new_mark()
                    correlator.g2(note=mark)
            found.append(correlator.g2(mark))
    for part in range(2):
        for kind in range(2):
            np.testing.assert_allclose(found[1][part][kind], found[0][part][kind], rtol=1e-6, atol=1e-9)


def test_without_torch_or_device_the_request_is_refused_in_plain_words() -> None:
    try:
        import torch
    except ImportError:
        with pytest.raises(BadArguments, match="torch is not installed"):
            TorchBackend()
    else:
        if not torch.cuda.is_available():
            with pytest.raises(BadArguments, match="no CUDA device"):
                TorchBackend()
