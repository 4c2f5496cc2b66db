#!/usr/bin/env python3
"""Make the spoken examples again:  examples/make_examples.py [FOLDER]

Needs eSpeak NG, Flite, Festival (with festvox-kallpc16k) and FFmpeg with its usual encoders. The same versions of them
make the same bytes.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

VOICES = {  # every command takes the text on stdin and writes the WAV file that is its last argument
    "slt": ["flite", "-voice", "slt", "-f", "/dev/stdin", "-o"],  # a woman from the United States
    "rms": ["flite", "-voice", "rms", "-f", "/dev/stdin", "-o"],  # a man from the United States
    "awb": ["flite", "-voice", "awb", "-f", "/dev/stdin", "-o"],  # a man from Scotland
    "kal": ["text2wave", "-eval", "(voice_kal_diphone)", "-o"],  # diphones
    "espeak-us": ["espeak-ng", "-v", "en-us", "-s", "150", "-w"],  # formants
    "espeak-gb": ["espeak-ng", "-v", "en-gb+f3", "-s", "150", "-w"],
}
EXAMPLES = {  # file: (voice, what it says)
    "burger.wav": ("slt", "a delicious burger on a blue background"),
    "cat.mp3": ("rms", "draw me a cat on the beach"),
    "castle.m4a": ("espeak-us", "please draw a castle at sunset"),
    "penguin.ogg": ("awb", "a happy penguin at night"),
    "unicorn.flac": ("kal", "I would like a unicorn in the forest"),
    "rocket.mp4": ("espeak-gb", "show me a rocket in space"),
}
ENCODERS = {
    ".wav": ["-c:a", "pcm_s16le"],
    ".mp3": ["-c:a", "libmp3lame", "-b:a", "48k"],
    ".m4a": ["-c:a", "aac", "-b:a", "48k"],
    ".ogg": ["-c:a", "libopus", "-b:a", "24k"],
    ".flac": ["-c:a", "flac"],
    ".mp4": ["-c:a", "aac", "-b:a", "48k", "-c:v", "libx264", "-pix_fmt", "yuv420p"],
}


def speak(voice: str, text: str, path: Path) -> None:
    """Write what `voice`, one of VOICES, says as WAV (16 kHz, mono), a third of a second of silence around it."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said.wav"
        subprocess.run([*VOICES[voice], said], input=f"{text}\n".encode(), check=True, stdout=subprocess.DEVNULL)
        encode(["-i", said, "-af", "adelay=330,apad=pad_dur=0.33"], path)


def encode(source: list[str | Path], path: Path) -> None:
    """Let FFmpeg write `source`, its input options, as `path`, without dates and version numbers."""
    plain = ["-ac", "1", "-ar", "16000", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags", "+bitexact"]
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *source, *plain, *ENCODERS[path.suffix], path]
    subprocess.run(command, check=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the spoken examples again.")
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
