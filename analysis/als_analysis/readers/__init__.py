"""Readers of raw beamline files: frames and metadata, found by a layout document."""

from als_analysis.readers.frames import FrameSource, open_frames
from als_analysis.readers.layout import Field, Layout, load_layout

__all__ = ["Field", "FrameSource", "Layout", "load_layout", "open_frames"]
