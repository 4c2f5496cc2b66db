"""Synthetic voices that speak prompts for measurements, tests and examples: eSpeak NG, Flite and Festival."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

VOICES = {  # commands that read the text from stdin and write the WAV file named by their last argument
    "slt": ["flite", "-voice", "slt", "-f", "/dev/stdin", "-o"],  # a woman from the United States
    "rms": ["flite", "-voice", "rms", "-f", "/dev/stdin", "-o"],  # a man from the United States
    "awb": ["flite", "-voice", "awb", "-f", "/dev/stdin", "-o"],  # a man from Scotland
    "kal": ["text2wave", "-eval", "(voice_kal_diphone)", "-o"],  # diphones
    "espeak-us": ["espeak-ng", "-v", "en-us", "-s", "150", "-w"],  # formants
    "espeak-gb": ["espeak-ng", "-v", "en-gb+f3", "-s", "150", "-w"],
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
    """Write `text`, spoken by `voice`, one of VOICES, as WAV (16 kHz, mono), with 0.33 s of silence around it."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said.wav"
        subprocess.run([*VOICES[voice], said], input=f"{text}\n".encode(), check=True, stdout=subprocess.DEVNULL)
        encode(["-i", said, "-af", "adelay=330,apad=pad_dur=0.33"], path)


def encode(source: list[str | Path], path: Path) -> None:
    """Encode with FFmpeg as the extension of `path` says, without dates and version numbers. source: input options."""
    plain = ["-ac", "1", "-ar", "16000", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags", "+bitexact"]
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *source, *plain, *ENCODERS[path.suffix], path]
    subprocess.run(command, check=True)
