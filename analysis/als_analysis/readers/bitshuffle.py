"""How bitshuffle stores a chunk: a header, then block by block of 4096 or so elements a length and as many bytes.

Numbers are big-endian: in the header 8 bytes for how long the decoded chunk is, and 4 for a block of it; 4 before each
block for its length as it is stored.
"""

from __future__ import annotations

HEADER = 12  # bytes
LARGEST_BLOCK = 1 << 19  # bytes: usually 8192; much more is no block but a damaged header
