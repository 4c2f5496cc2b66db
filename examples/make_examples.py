"""Create the spoken examples:  python -m examples.make_examples [FOLDER]

Needs eSpeak NG, Flite, Festival (with festvox-kallpc16k) and FFmpeg with its usual encoders. The same versions of these
programs make identical files.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmark.clips import EXAMPLES as EXAMPLES
from benchmark.voices import encode, speak


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Create the spoken examples.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent, metavar="FOLDER")
    folder = parser.parse_args(argv).folder
    with tempfile.TemporaryDirectory() as temporary:
        for name, (voice, text) in EXAMPLES.items():
            said = Path(temporary) / "said.wav"
            speak(voice, text, said)
            picture = ["-f", "lavfi", "-i", "color=c=0x203050:s=64x64:r=5:d=2.4"] if name.endswith(".mp4") else []
            encode(["-i", said, *picture], folder / name)


if __name__ == "__main__":
    main()
