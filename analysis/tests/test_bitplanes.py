"""Events straight from bitshuffled chunks are those of the decoded frames, and no damage gives others."""

from __future__ import annotations

import ctypes
import io
import itertools
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from als_analysis.readers import bitplanes, chunks, unshuffle
from als_analysis.readers.bitshuffle import HEADER
from als_analysis.readers.events import MOST_IN_WORD
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

LZ4: Any = chunks._lz4_address()
pytestmark = pytest.mark.skipif(LZ4 is None, reason="this build of hdf5plugin has no LZ4 of its own")
SLACK = 128
MARK = 0xA5


def encode(frames: NDArray[Any], block: int = 0) -> list[bytes]:
    """The chunks of frames (n, pixels), bitshuffled in blocks of `block` pixels (0: as many as bitshuffle takes)."""
    n, pixels = frames.shape
    with h5py.File(io.BytesIO(), "w") as file:
        filters = hdf5plugin.Bitshuffle(nelems=block, cname="lz4")
        data = file.create_dataset("d", data=frames.reshape(n, 1, pixels), chunks=(1, 1, pixels), **filters)
        return [data.id.read_direct_chunk((t, 0, 0))[1] for t in range(n)]


Listed = tuple[list[NDArray[Any]], list[NDArray[Any]], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def listed(
    encoded: list[bytes],
    pixels: int,
    dtype: str,
    used: NDArray[np.uint64],
    behind: int = SLACK,
    edges: tuple[int, ...] | None = None,
    room: int = 0,
) -> Listed:
    """Pixels and counts of each frame, where each slice's codes end (negative: why not), sums and full pixels.

    `behind` bytes follow the last chunk; one slice has all frames but where `edges` are given.
    """
    data = np.frombuffer(b"".join(encoded) + bytes(behind), dtype=np.uint8).copy()
    starts = np.concatenate([[0], np.cumsum([len(e) for e in encoded])]).astype(np.int64)
    n, kind = len(encoded), np.dtype(dtype)
    slices = np.array(edges or (0, n), dtype=np.int64)
    count, room = len(slices) - 1, room or 5 * n * pixels + MOST_IN_WORD
    codes = np.full(count * room, 0xABCD, dtype=np.uint16)
    ends, (sums, full) = np.zeros(count, dtype=np.int64), np.zeros((2, n), dtype=np.int64)
    lengths = np.zeros((count, -(-pixels // 64)), dtype=np.uint16)
    sign = 8 * kind.itemsize - 1 if kind.kind == "i" else -1
    bitplanes.list_slices(
        LZ4, data, starts, slices, 0, count, pixels, kind.itemsize, sign, np.iinfo(kind).max, room, codes, ends,
        lengths, used, sums, full,
    )  # fmt: skip
    whole = [s for s in range(count) if ends[s] >= 0]
    for s in whole:
        assert lengths[s].sum() == ends[s] - s * room and (codes[ends[s] + 70 : (s + 1) * room] == 0xABCD).all()
    found = [
        frame
        for s in whole
        for frame in frames_of(codes[s * room : ends[s]], lengths[s], int(slices[s + 1] - slices[s]))
    ]
    return [f[0] for f in found], [f[1] for f in found], ends, sums, full


def frames_of(
    codes: NDArray[np.uint16], lengths: NDArray[np.uint16], frames: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pixels and counts of each frame of a slice, as the text of `readers.events` says that they are written."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(frames)]
    rest = iter(codes.tolist())
    for word, length in enumerate(lengths.tolist()):
        mine = iter([next(rest) for _ in range(length)])
        for code in mine:
            count = code >> 11
            if count == 0:
                parts = np.array([next(mine) for _ in range(4)], dtype="<u2")
                count = int(parts.view("<i8")[0])
            found[code >> 6 & 31].append((64 * word + (code & 63), count))
    return [(a[:, 0], a[:, 1]) for a in (np.array(f, dtype=np.int64).reshape(-1, 2) for f in found)]


def photons(rng: np.random.Generator, n: int, pixels: int, mean: float, most: int, dtype: str) -> NDArray[Any]:
    counts = rng.poisson(mean, (n, pixels))
    bright = (counts > 0) & (rng.random((n, pixels)) < 0.05)
    return np.where(bright, rng.integers(1, most, (n, pixels), endpoint=True), counts).astype(dtype)


def spoil(rng: np.random.Generator, data: bytearray) -> None:
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(0, len(data))] = rng.integers(0, 256) if rng.random() < 0.5 else rng.choice([0, 255])


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "uint32", "int16", "int8"]),
    mean=st.sampled_from([0.0, 0.0002, 0.003, 0.01, 0.04, 0.1]),
    most=st.sampled_from([1, 2, 5, 31, 32, 100]),
    words=st.integers(1, 260),
    block=st.sampled_from([0, 64, 192, 1024]),
    behind=st.sampled_from([0, SLACK]),
    edges=st.sampled_from([(0, 3), (0, 1, 3), (0, 1, 2, 3)]),
    seed=st.integers(0, 1000),
)
def test_events_are_those_of_the_frames_word_by_word(
    dtype: str, mean: float, most: int, words: int, block: int, behind: int, edges: tuple[int, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = 64 * words  # so that the last block is nearly always smaller than the others
    frames = photons(rng, 3, pixels, mean, most, dtype)
    if np.dtype(dtype).kind == "i":
        frames = np.where(rng.random(frames.shape) < 0.1, -frames, frames)
    used = rng.integers(0, 2**64, words, dtype=np.uint64)
    pixel, count, ends, sums, full = listed(encode(frames, block), pixels, dtype, used, behind, edges)
    wanted = np.unpackbits(used.view(np.uint8), bitorder="little").astype(bool)
    assert (ends >= 0).all()
    for t, frame in enumerate(frames):
        np.testing.assert_array_equal(pixel[t], np.flatnonzero(frame))
        np.testing.assert_array_equal(count[t], frame[frame != 0])
        assert sums[t] == frame[wanted].sum(dtype=np.int64)
        assert full[t] == np.count_nonzero(frame[wanted] == np.iinfo(dtype).max)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int8", "int32"])
def test_the_largest_and_the_smallest_counts(dtype: str) -> None:
    frames = np.zeros((2, 8768), dtype=dtype)
    frames[0, [0, 63, 4095, 4096, 8767]] = np.iinfo(dtype).max
    frames[1, 8000:] = np.iinfo(dtype).max // 2 + 1  # nothing in the lowest bits
    frames[1, :7] = np.iinfo(dtype).min
    pixel, count, _, sums, full = listed(encode(frames), 8768, dtype, np.full(137, 2**64 - 1, np.uint64))
    assert full.tolist() == [5, 0]
    for t, frame in enumerate(frames):
        np.testing.assert_array_equal(pixel[t], np.flatnonzero(frame))
        np.testing.assert_array_equal(count[t], frame[frame != 0])
        assert sums[t] == frame.sum(dtype=np.int64)


def test_whole_slices_of_32_frames() -> None:
    rng = np.random.default_rng(4)
    frames = photons(rng, 70, 4096 + 128, 0.02, 40, "uint16")
    used = np.full(66, 2**64 - 1, dtype=np.uint64)
    pixel, count, ends, _, _ = listed(encode(frames), 4224, "uint16", used, edges=(0, 32, 64, 70))
    assert (ends >= 0).all() and len(pixel) == 70
    for t, frame in enumerate(frames):
        np.testing.assert_array_equal(pixel[t], np.flatnonzero(frame))
        np.testing.assert_array_equal(count[t], frame[frame != 0])


def test_a_slice_that_is_too_full_is_not_listed_and_the_others_are() -> None:
    pixels, most = 8768, 300
    frames = np.zeros((4, pixels), dtype=np.uint16)
    for t, events in enumerate((most, 20 * most, most, most)):
        frames[t, np.random.default_rng(t).choice(pixels, events, replace=False)] = 1 + t // 2
    used = np.full(pixels // 64, 2**64 - 1, dtype=np.uint64)
    found = listed(encode(frames), pixels, "uint16", used, edges=(0, 1, 2, 3, 4), room=most + MOST_IN_WORD)
    pixel, count, ends = found[:3]
    assert [end >= 0 for end in ends] == [True, False, True, True] and ends[1] == bitplanes.TOO_FULL
    for row, t in enumerate((0, 2, 3)):
        np.testing.assert_array_equal(pixel[row], np.flatnonzero(frames[t]))
        assert (count[row] == 1 + t // 2).all()


def test_frames_of_other_blocks_than_the_first_are_not_listed() -> None:
    frames = photons(np.random.default_rng(1), 2, 4096, 0.01, 2, "uint16")
    mixed = [encode(frames[:1], 1024)[0], encode(frames[1:], 2048)[0]]
    used = np.full(64, 2**64 - 1, dtype=np.uint64)
    assert listed(mixed, 4096, "uint16", used)[2].tolist() == [bitplanes.DAMAGED]
    assert (listed(mixed, 4096, "uint16", used, edges=(0, 1, 2))[2] >= 0).all()


@pytest.mark.parametrize("behind", [0, SLACK])
def test_damage_is_noticed_where_lz4_notices_it(behind: int) -> None:
    rng = np.random.default_rng(behind)
    pixels = 4096 + 64 * 9
    used = np.full(pixels // 64, 2**64 - 1, dtype=np.uint64)
    nothing, kind = np.zeros(1, dtype=np.int64), np.dtype(np.uint16)
    reader = chunks.Chunks(Path("d"), nothing, nothing, kind, pixels, (), 0, chunks._bitshuffle(2), LZ4)
    whole = [encode(photons(rng, 1, pixels, mean, 3, "uint16"))[0] for mean in (0.0, 0.003, 0.02, 0.1)]
    noticed = 0
    for _ in range(1500):
        damaged = bytearray(whole[rng.integers(len(whole))])
        if rng.random() < 0.1:
            damaged.extend(bytes(int(rng.integers(1, 9))))
        elif rng.random() < 0.1:
            del damaged[rng.integers(0, len(damaged)) :]
        else:
            spoil(rng, damaged)
        pixel, count, ends, _, _ = listed([bytes(damaged)], pixels, "uint16", used, behind)
        data = np.frombuffer(bytes(damaged), dtype=np.uint8).copy()
        sound = unshuffle.is_sound(LZ4, data, pixels, 2)
        block = int.from_bytes(bytes(damaged[8:12]), "big") // 2
        noticed += not sound
        assert ends[0] >= 0 if sound and block % 64 == 0 else ends[0] == bitplanes.DAMAGED
        if ends[0] >= 0:
            frame = np.empty(pixels, dtype=np.uint16)
            reader._decode_frame(data, frame, 0)
            np.testing.assert_array_equal(pixel[0], np.flatnonzero(frame))
            np.testing.assert_array_equal(count[0], frame[frame != 0])
    assert 0 < noticed < 1500


def sequence(plain: bytes, length: int = 0, back: int = 0) -> bytes:
    """Plain bytes, then a copy of `length` bytes from `back` bytes before; none after the last plain bytes."""
    more = length - 4 if length else 0

    def rest(size: int) -> bytes:
        return bytes([255] * ((size - 15) // 255) + [(size - 15) % 255]) if size >= 15 else b""

    token = bytes([min(len(plain), 15) << 4 | min(more, 15)])
    return token + rest(len(plain)) + plain + (back.to_bytes(2, "little") + rest(more) if length else b"")


def sequences(rng: np.random.Generator, room: int, zeros: float) -> bytes:
    """An LZ4 block that decodes to `room` bytes: copies of any distance and length, over bytes that are often 0."""
    out, to, over = b"", 0, False

    def plain(size: int) -> bytes:
        return (rng.integers(1, 256, size) * (rng.random(size) >= zeros)).astype(np.uint8).tobytes()

    while room - to > 400 and not over:
        first = plain(int(rng.choice([0, 0, 0, 1, 1, 2, 5, 14, 15, 40, 300])) or int(to == 0))
        to += len(first)
        over = rng.random() < 0.05
        length = room - to - 5 if over else int(rng.choice([4, 7, 18, 19, 33, 64, 65, 100, 273, 274, 275, 3000]))
        length = min(length, room - to - 5)
        out += sequence(first, length, min(int(rng.choice([1, 2, 3, 7, 8, 9, 16, 63, 64, 65, 200, 5000])), to))
        to += length
    return out + sequence(plain(room - to))


def both(block: bytes, room: int, row: int) -> tuple[int, int, NDArray[np.uint8], NDArray[np.uint8]]:
    """What `unpack` and LZ4 give, and the bytes that they write."""
    decode = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int] * 2)(LZ4)
    source = np.frombuffer(block + bytes([MARK] * SLACK), dtype=np.uint8).copy()
    mine, theirs = np.full((2, room + 2 * SLACK), MARK, dtype=np.uint8)
    there = bitplanes.unpack(source.ctypes.data, len(block), mine.ctypes.data, room, row)
    assert (mine[room + SLACK :] == MARK).all()
    return there, decode(source.ctypes.data, theirs.ctypes.data, len(block), room), mine, theirs


@pytest.mark.parametrize("zeros", [1.0, 0.98, 0.5])
def test_every_block_is_what_lz4_makes_of_it_and_a_damaged_one_changes_nothing_else(zeros: float) -> None:
    rng = np.random.default_rng(int(100 * zeros))
    refused = 0
    for turn in range(600):
        row = int(rng.choice([64, 256, 512]))
        room = 16 * row
        block = bytearray(sequences(rng, room, zeros))
        sound = turn % 2 == 0
        if not sound:
            spoil(rng, block)
        there, size, mine, theirs = both(bytes(block), room, row)
        if there < 0:
            refused += 1
            assert not sound
            continue
        assert size == room
        written = -(-there // row) * row
        np.testing.assert_array_equal(mine[:written], theirs[:written])
        assert not theirs[there:room].any()
    assert 0 < refused < 300


@pytest.mark.parametrize("last", range(14))
def test_the_end_of_a_block_is_where_lz4_wants_it(last: int) -> None:
    for value in (b"\0", b"\1"):
        for between, length in itertools.product(range(9), (4, 20)):
            block = sequence(value, 150, 1) + sequence(value * between, length, 1) + sequence(value * last)
            there, size, _, _ = both(block, 151 + between + length + last, 8)
            assert (there >= 0) == (size >= 0)


def test_zeros_at_the_end_are_left_out() -> None:
    frame = np.random.default_rng(3).random((1, 4096)) < 0.01
    block = encode(frame.astype(np.uint16))[0][HEADER + 4 :]
    there, _, mine, theirs = both(block, 8192, 512)
    assert there <= 1024  # the copy before the last one may end in the second row
    np.testing.assert_array_equal(mine[:512], theirs[:512])
    assert (mine[1024 + 64 :] == MARK).all()
