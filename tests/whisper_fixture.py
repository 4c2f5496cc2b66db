"""A real whisper.cpp model file that says one fixed sentence, whatever it hears.

It is written by numpy in a tenth of a second (9 MB) and holds nobody's data: one encoder and one decoder layer
of width 64 with every weight zero but these: a word's embedding is a direction of its own, the decoder's MLP turns it
into the direction of the next word, and everything that is no word of the sentence (start, language, task, initial
prompt) into the first. So it answers the same with a prompt or without, in any language and for any task, as long as
timestamps are off. It may be unsure of its words, take the sound for no speech, or never come to an end.

File format: whisper.cpp, models/convert-pt-to-ggml.py.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
WIDTH = 64
LAST_TOKEN = {False: 50256, True: 50257}  # end of text: multilingual models have one token more in front of it
VOCABULARY = {False: 51864, True: 51865}
START = {False: 50257, True: 50258}  # of a transcript
NO_SPEECH = {False: 50361, True: 50362}


def write(
    path: str | Path,
    sentence: str,
    *,
    multilingual: bool = False,
    certainty: float = 4,
    speech: bool = True,
    ends: bool = True,
) -> Path:
    """Write to `path` a model that says `sentence` (at most 60 words) and return the path.

    certainty: with 4 whisper.cpp never tries again, at 1.2 the mean log probability of a token is -1.44;
    speech: False makes it near certain that there is none; ends: False makes it say the sentence again and again.
    """
    words = [" ", *(f" {word}" for word in sentence.split())]  # whisper.cpp looks up the blank by its text
    steps = [*range(1, len(words)), LAST_TOKEN[multilingual]]  # the k-th word of the sentence is token k
    started, silence = WIDTH - 2, WIDTH - 1  # directions
    assert len(steps) < started

    vocabulary, audio_context, text_context, mels = VOCABULARY[multilingual], 1500, 448, 80
    tensors: dict[str, Array] = {}

    def zeros(name: str, *shape: int) -> Array:
        tensors[name] = np.zeros(shape, np.float32)
        return tensors[name]

    def norm(name: str) -> None:
        zeros(f"{name}.weight", WIDTH)[:] = 1
        zeros(f"{name}.bias", WIDTH)

    def block(name: str, *attentions: str) -> None:
        for attention in attentions:
            for part in ("query", "key", "value", "out"):
                zeros(f"{name}.{attention}.{part}.weight", WIDTH, WIDTH)
                if part != "key":
                    zeros(f"{name}.{attention}.{part}.bias", WIDTH)
            norm(f"{name}.{attention}_ln")
        for layer, shape in ((0, (4 * WIDTH, WIDTH)), (2, (WIDTH, 4 * WIDTH))):
            zeros(f"{name}.mlp.{layer}.weight", *shape)
            zeros(f"{name}.mlp.{layer}.bias", shape[0])
        norm(f"{name}.mlp_ln")

    zeros("encoder.positional_embedding", audio_context, WIDTH)
    zeros("encoder.conv1.weight", WIDTH, mels, 3)
    zeros("encoder.conv1.bias", WIDTH, 1)
    zeros("encoder.conv2.weight", WIDTH, WIDTH, 3)
    zeros("encoder.conv2.bias", WIDTH, 1)
    norm("encoder.ln_post")
    block("encoder.blocks.0", "attn")
    zeros("decoder.positional_embedding", text_context, WIDTH)
    embedding = zeros("decoder.token_embedding.weight", vocabulary, WIDTH)
    block("decoder.blocks.0", "attn", "cross_attn")
    norm("decoder.ln")

    tensors["decoder.ln.weight"][:] = certainty
    embedding[:, 0] = 1  # direction 0: no word of the sentence
    for step, token in enumerate(steps):
        embedding[token] = 0
        embedding[token, step + 1] = 1
    for direction in range(len(steps)):
        tensors["decoder.blocks.0.mlp.0.weight"][direction, direction] = 1
        tensors["decoder.blocks.0.mlp.2.weight"][direction + 1, direction] = 10
    if not ends:  # after the last word comes the first
        tensors["decoder.blocks.0.mlp.2.weight"][:, len(steps) - 1] = np.eye(WIDTH)[1] * 10
    if not speech:
        embedding[START[multilingual]] = np.eye(WIDTH)[started]
        embedding[NO_SPEECH[multilingual]] = 3 * np.eye(WIDTH)[silence]
        tensors["decoder.blocks.0.mlp.0.weight"][started, started] = 1
        tensors["decoder.blocks.0.mlp.2.weight"][[1, silence], started] = 10, 30

    with Path(path).open("wb") as file:
        sizes = (vocabulary, audio_context, WIDTH, 1, 1, text_context, WIDTH, 1, 1, mels, 1)
        file.write(struct.pack("12i", 0x67676D6C, *sizes))
        file.write(struct.pack("2i", mels, 201) + bytes(4 * mels * 201))  # the mel filters
        file.write(struct.pack("i", len(words)))
        for word in words:
            file.write(struct.pack("i", len(word.encode())) + word.encode())
        for name, tensor in tensors.items():
            half = tensor.ndim >= 2 and not name.endswith(("conv1.bias", "conv2.bias", "positional_embedding"))
            file.write(struct.pack("3i", tensor.ndim, len(name), int(half)))
            file.write(struct.pack(f"{tensor.ndim}i", *tensor.shape[::-1]) + name.encode())
            file.write(tensor.astype(np.float16 if half else np.float32).tobytes())
    return Path(path)


if __name__ == "__main__":
    write(sys.argv[1], " ".join(sys.argv[2:]))
