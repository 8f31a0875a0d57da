"""What a memory limit leaves for the data."""

from __future__ import annotations

# what Python and its libraries take; a measured figure would differ from run to run, and with it where data are cut
# into blocks and bins, how sums are rounded, and whether a checkpoint fits
INTERPRETER_BYTES = 240 << 20
