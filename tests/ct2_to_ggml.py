"""A Whisper model of CTranslate2 (the form of faster-whisper) as a ggml file, which whisper.cpp reads.

    convert(folder, path)           # f16: the weights as they are, 2 s for Whisper base
    convert(folder, path, "q5_1")   # 5 bits and two f16 per block of 32, as whisper.cpp's own `quantize` makes it

`folder` is what faster-whisper takes: model.bin with f16 or f32 weights, and tokenizer.json. Formats: CTranslate2,
python/ctranslate2/specs/model_spec.py (version 6); whisper.cpp, models/convert-pt-to-ggml.py; ggml, ggml-quants.c.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]

TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # CTranslate2's numbers for them
WORDS = 50257  # tokens of the vocabulary; whisper.cpp adds the special ones itself
AUDIO_CONTEXT, TEXT_CONTEXT = 1500, 448
FILTER = 201  # frequencies of a mel filter
F32, F16, Q5_1 = 0, 1, 7  # ggml's types of a tensor
FILE_TYPES = {"f16": 1, "q5_1": 2000 + 9}  # of a file: the version of the quantization is in the thousands
BLOCK = 32  # weights


def convert(folder: Path, path: Path, kind: str = "f16") -> None:
    """Write the model in `folder` to `path`. kind: of FILE_TYPES.

    Raises: OSError; ValueError for what is no Whisper model of CTranslate2, or one that ggml cannot hold.
    """
    ours = read(folder / "model.bin")
    weights, layers = rename(ours)
    width, mels, _ = weights["encoder.conv1.weight"].shape
    heads = {side: int(ours[f"{side}/num_heads"]) for side in layers}
    vocabulary = len(weights["decoder.token_embedding.weight"])
    hear = (AUDIO_CONTEXT, width, heads["encoder"], layers["encoder"])
    write = (TEXT_CONTEXT, width, heads["decoder"], layers["decoder"])
    with path.open("wb") as file:
        file.write(struct.pack("12i", 0x67676D6C, vocabulary, *hear, *write, mels, FILE_TYPES[kind]))
        file.write(struct.pack("2i", mels, FILTER) + mel_filters(mels).tobytes())
        words = vocabulary_of(folder / "tokenizer.json")
        file.write(struct.pack("i", len(words)))
        for word in words:
            file.write(struct.pack("i", len(word)) + word)
        for name, tensor in weights.items():
            write_tensor(file, name, tensor, kind)


def read(path: Path) -> Tensors:
    """The variables of a CTranslate2 model. Raises: ValueError for another version of the format."""

    with path.open("rb") as file:

        def numbers(form: str) -> tuple[Any, ...]:
            return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))

        def string() -> str:
            (length,) = numbers("H")
            return file.read(length)[:-1].decode()  # with a zero at its end

        (version,), spec, (_, count) = numbers("I"), string(), numbers("2I")
        if (version, spec) != (6, "WhisperSpec"):
            raise ValueError(f"{path} is {spec} of version {version}, not WhisperSpec of version 6")
        tensors: Tensors = {}
        for _ in range(count):
            name, (rank,) = string(), numbers("B")
            shape, (number, size) = numbers(f"{rank}I"), numbers("BI")
            tensors[name] = np.frombuffer(file.read(size), TYPES[number]).reshape(shape)
    return tensors


def rename(ours: Tensors) -> tuple[Tensors, dict[str, int]]:
    """(The tensors by OpenAI's names, float32; the number of layers of encoder and decoder.)

    CTranslate2 keeps query, key and value as one matrix, and a bias for the key, which Whisper does not have.
    Raises: ValueError if that bias is not zero.
    """
    named: Tensors = {}

    def take(name: str) -> NDArray[Any]:
        return ours[name].astype(np.float32)

    def norm(name: str, source: str) -> None:
        named[f"{name}.weight"], named[f"{name}.bias"] = take(f"{source}/gamma"), take(f"{source}/beta")

    def linear(name: str, source: str, part: int = 0, of: int = 1) -> None:
        weight, bias = take(f"{source}/weight"), take(f"{source}/bias")
        rows = slice(part * len(bias) // of, (part + 1) * len(bias) // of)
        named[f"{name}.weight"] = weight[rows]
        if not name.endswith(".key"):
            named[f"{name}.bias"] = bias[rows]
        elif bias[rows].any():
            raise ValueError(f"{source} has a bias for the key, and no Whisper model has one")

    layers = {side: sum(name.startswith(f"{side}/layer_") and name.endswith("/ffn/linear_0/weight") for name in ours)
              for side in ("encoder", "decoder")}  # fmt: skip
    for side, count in layers.items():
        named[f"{side}.positional_embedding"] = take(f"{side}/position_encodings/encodings")
        if side == "encoder":
            for layer in ("conv1", "conv2"):
                named[f"encoder.{layer}.weight"] = take(f"encoder/{layer}/weight")
                named[f"encoder.{layer}.bias"] = take(f"encoder/{layer}/bias").reshape(-1, 1)
        else:
            named["decoder.token_embedding.weight"] = take("decoder/embeddings/weight")
        for number in range(count):
            source, name = f"{side}/layer_{number}", f"{side}.blocks.{number}"
            for part, what in enumerate(("query", "key", "value")):
                linear(f"{name}.attn.{what}", f"{source}/self_attention/linear_0", part, 3)
            linear(f"{name}.attn.out", f"{source}/self_attention/linear_1")
            norm(f"{name}.attn_ln", f"{source}/self_attention/layer_norm")
            if side == "decoder":
                linear(f"{name}.cross_attn.query", f"{source}/attention/linear_0")
                for part, what in enumerate(("key", "value")):
                    linear(f"{name}.cross_attn.{what}", f"{source}/attention/linear_1", part, 2)
                linear(f"{name}.cross_attn.out", f"{source}/attention/linear_2")
                norm(f"{name}.cross_attn_ln", f"{source}/attention/layer_norm")
            linear(f"{name}.mlp.0", f"{source}/ffn/linear_0")
            linear(f"{name}.mlp.2", f"{source}/ffn/linear_1")
            norm(f"{name}.mlp_ln", f"{source}/ffn/layer_norm")
        norm("encoder.ln_post" if side == "encoder" else "decoder.ln", f"{side}/layer_norm")
    return named, layers


def mel_filters(count: int) -> NDArray[np.float32]:
    """(count, FILTER): triangles on Slaney's mel scale, each of area 2 over its width, for 16 kHz and windows of 400.

    The same as librosa.filters.mel(sr=16000, n_fft=400, n_mels=count), which Whisper was trained with.
    """
    step, logarithmic, ratio = 200 / 3, 1000.0, np.log(6.4) / 27  # Hz per mel below 1 kHz; above, the scale is a log
    border = logarithmic / step
    highest = border + np.log(8000 / logarithmic) / ratio
    mels = np.linspace(0, highest, count + 2)
    edges = np.where(mels < border, step * mels, logarithmic * np.exp(ratio * (mels - border)))
    distance = edges[:, None] - np.fft.rfftfreq(400, 1 / 16000)
    widths = np.diff(edges)[:, None]
    triangles = np.maximum(0, np.minimum(-distance[:-2] / widths[:-1], distance[2:] / widths[1:]))
    return np.asarray(triangles * 2 / (edges[2:] - edges[:-2])[:, None], np.float32)


def vocabulary_of(path: Path) -> list[bytes]:
    """The bytes of each token, by its number. tokenizer.json spells each byte as a printable character (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
    tokens = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    spelled = {number: bytes(alphabet[sign] for sign in token) for token, number in tokens.items() if number < WORDS}
    return [spelled.get(number, b"") for number in range(WORDS)]


def write_tensor(file: BinaryIO, name: str, tensor: NDArray[Any], kind: str) -> None:
    """Write one tensor, as f16 or in `kind` where whisper.cpp wants it so."""
    matrix = tensor.ndim >= 2 and not name.endswith(("conv1.bias", "conv2.bias", "positional_embedding"))
    if matrix and kind == "q5_1" and tensor.ndim == 2:
        stored, data = Q5_1, q5_1(tensor)
    elif matrix:
        stored, data = F16, tensor.astype(np.float16).tobytes()
    else:
        stored, data = F32, tensor.astype(np.float32).tobytes()
    file.write(struct.pack("3i", tensor.ndim, len(name), stored))
    file.write(struct.pack(f"{tensor.ndim}i", *tensor.shape[::-1]) + name.encode() + data)


def q5_1(weights: NDArray[Any]) -> bytes:
    """Blocks of 32 weights (float32): the step and the smallest weight as f16, then the fifth bits and the lower four.

    The same bytes as quantize_row_q5_1_ref of ggml. Raises: ValueError if the weights do not fill the blocks.
    """
    if weights.shape[-1] % BLOCK:
        raise ValueError(f"rows of {weights.shape[-1]} weights do not fill blocks of {BLOCK}")
    blocks = weights.reshape(-1, BLOCK).astype(np.float32)
    low = blocks.min(1, keepdims=True)
    step = (blocks.max(1, keepdims=True) - low) / np.float32(31)
    per_step = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
    levels = ((blocks - low) * per_step + np.float32(0.5)).astype(np.uint8)
    fifth = np.packbits(levels >> 4 & 1, axis=1, bitorder="little")
    lower = levels[:, : BLOCK // 2] & 15 | (levels[:, BLOCK // 2 :] & 15) << 4
    return np.hstack([step.astype("<f2").view(np.uint8), low.astype("<f2").view(np.uint8), fifth, lower]).tobytes()
