"""Whisper models as whisper.cpp loads them: the header of a ggml file, and a check of every length in it.

    model = ggml.inspect(path)      # UserError 65 if the file cannot be a Whisper model
    ggml.check(path)                # UserError 65 if a length in it is wrong; for files of unknown origin

File format: whisper.cpp, models/convert-pt-to-ggml.py.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import NamedTuple

from helpers.catalog import catalog
from helpers.core.errors import UserError

_MAGIC = b"lmgg"
_ENGLISH_ONLY = 51864  # tokens; multilingual models have one or two more
# Bits per weight by ggml file type, without the quantization version in the thousands; 2.5 is less than any other has.
_BITS = {0: 32, 1: 16, 2: 4.5, 3: 5, 7: 8.5, 8: 5.5, 9: 6}
_AUDIO_CONTEXT, _TEXT_CONTEXT = (
    1500,
    448,
)  # of every Whisper model; whisper.cpp allocates as much memory as the header asks for
_FILTER = 201  # frequencies of a mel filter
# Weights in a block and bytes of a block, by tensor type (ggml.h): f32, f16, q4_0 … q8_0, bf16, q2_K … q6_K.
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 30: (1, 2)}
_BLOCKS |= {10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210)}


class Model(NamedTuple):
    """A Whisper model file, and its abilities according to the header."""

    path: Path
    multilingual: bool
    translates: bool

    @property
    def languages(self) -> str:
        """`en` or `any`, as in the catalogue."""
        return "any" if self.multilingual else "en"


def inspect(path: Path) -> Model:
    """Read the header of the model file at `path`.

    Raises: UserError 65 not a Whisper model, or cut short; 66 no such file; 77 not permitted.
    """
    try:
        with path.open("rb") as file:
            header = file.read(48)
            size = os.fstat(file.fileno()).st_size
    except PermissionError as error:
        raise UserError(os.EX_NOPERM, f"no permission to read {path}", "Change its permissions.") from error
    except OSError as error:
        raise UserError(os.EX_NOINPUT, f"cannot read {path}: {error.strerror}", "Check the name.") from error
    if header[:4] != _MAGIC or len(header) < 48:
        raise _unusable(path, "is not a Whisper model in ggml format")
    sizes = struct.unpack("<11i", header[4:])
    tokens, audio_context, width, _, audio_layers, text_context, _, _, text_layers, mels, file_type = sizes
    plausible = _ENGLISH_ONLY <= tokens <= _ENGLISH_ONLY + 2 and mels in (80, 128) and min(sizes[:10]) > 0
    if not plausible or (audio_context, text_context) != (_AUDIO_CONTEXT, _TEXT_CONTEXT):
        raise _unusable(path, "is not a Whisper model in ggml format")
    weights = tokens * width + (12 * audio_layers + 16 * text_layers) * width**2  # the matrices; the rest is small
    if size < weights * _BITS.get(file_type % 1000, 2.5) / 8:
        raise _unusable(path, "is cut short")
    multilingual = tokens > _ENGLISH_ONLY
    # The turbo and distilled models have fewer decoder layers, and were not trained to translate.
    return Model(path, multilingual, translates=multilingual and text_layers == audio_layers)


def check(path: Path) -> None:
    """Check every length in a file that passed `inspect` but is of unknown origin. whisper.cpp trusts these lengths: it
    allocates that much memory, and copies a tensor's dimensions into an array of four on its stack.

    Raises: UserError 65 for a length that points past the end of the file.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size

        def numbers(count: int) -> tuple[int, ...]:
            return struct.unpack(f"<{count}i", file.read(4 * count))

        def skip(count: int, most: int) -> None:
            if not 0 <= count <= most or file.tell() + count > size:
                raise ValueError
            file.seek(count, os.SEEK_CUR)

        try:
            file.seek(40)
            mels, _ = numbers(2)
            if numbers(2) != (mels, _FILTER):
                raise ValueError
            skip(4 * mels * _FILTER, size)
            (tokens,) = numbers(1)
            if tokens > _ENGLISH_ONLY + 2:
                raise ValueError
            for _ in range(tokens):
                skip(numbers(1)[0], 1000)
            while file.tell() < size:
                dimensions, name, tensor_type = numbers(3)
                if not 1 <= dimensions <= 4:
                    raise ValueError
                shape = numbers(dimensions)
                weights, block = _BLOCKS[tensor_type]
                skip(name, 1000)
                skip(math.prod(shape) // weights * block if min(shape) > 0 else -1, size)
        except (KeyError, ValueError, struct.error) as error:
            raise _unusable(path, "is damaged: a length in it points past the end of the file") from error


def remedy(path: Path) -> str:
    """How to fix the damaged model file at `path`. A model of the catalogue is in a folder with its name."""
    name = path.parent.name
    if name in catalog.read().entries:
        return f"Download it again: ./download_model.py --remove {name}; ./download_model.py {name}"
    return "Use another file; ./download_model.py list shows models that work."


def _unusable(path: Path, why: str) -> UserError:
    return UserError(os.EX_DATAERR, f"{path} {why}", remedy(path))
