"""audio-to-image: you speak, and a moment later the picture is there."""

__version__ = "0.1.0"
