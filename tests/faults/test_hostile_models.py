"""Files of models that are damaged, swapped, or made by somebody who means harm: refused in one line, and nothing else.

A model of the catalogue is known by its sha256; a folder or a file that the user names is known by nobody. It may draw
nonsense. It may not run anything, write, reach for a network, take the memory, hang, or end without a line.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
import whisper_fixture
from downloads import COMPILED, zipped
from small_models import random_model

from helpers.catalog import archive
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.text import printable
from helpers.draw import engines
from helpers.listen.recognisers import Request, choose
from helpers.listen.whisper import Whisper

TESTS = Path(__file__).resolve().parent.parent
REFUSED = (os.EX_DATAERR, os.EX_UNAVAILABLE)
ENDS = (0, *REFUSED, os.EX_SOFTWARE, os.EX_USAGE)  # 70: what it drew is no picture; 64: it has fewer steps than usual
SECOND = bytes(2 * 16_000)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "tiny", "tiny")


def tried(engine: str, kind: str, count: int, model: Path, folder: Path) -> list[dict[str, Any]]:
    """How each of `count` trials of tests/hostile.py ended; a process that dies is a trial that ended with None."""
    ends: list[dict[str, Any]] = []
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1", "A2I_QUIET": "1"}
    while (first := ends[-1]["ended"] + 1 if ends else 0) < count:
        command = [engine, kind, str(first), str(count), str(model), str(folder / "place")]
        done = subprocess.run(
            [sys.executable, TESTS / "hostile.py", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines, done.stderr
        ends += [line for line in lines if "ended" in line]
        if "began" in lines[-1]:
            died = f"the process ended with {done.returncode}: {done.stderr[-500:]}"
            ends.append({"ended": lines[-1]["began"], "code": None, "message": died, "did": [], "megabytes": 0})
    return ends


def wrong(end: dict[str, Any]) -> bool:
    """Whether a trial ended otherwise than with a picture, or a refusal in a line that a person can read."""
    line = end["message"]
    said = bool(line) == bool(end["code"]) and len(line) < 1000 and "alloc" not in line and "Memory" not in line
    return end["code"] not in ENDS or bool(end["did"]) or end["megabytes"] > 500 or not said


@pytest.mark.parametrize("kind", ["safetensors", "json", "tokenizer", "damage"])
def test_image_models(
    kind: str,
    tiny: Path,
    tmp_path: Path,
    size: Callable[[int, int], int],
    record_property: Callable[[str, object], None],
) -> None:
    """Hostile and damaged files of an image model: a picture or one line, no code run, no memory filled."""
    ends = tried("cpu", kind, size(10, 1000), tiny, tmp_path)
    record_property("tried", len(ends))
    assert not (bad := [end for end in ends if wrong(end)]), f"{len(bad)} of {len(ends)}: {bad[:3]}"
    assert {end["code"] for end in ends} & set(REFUSED), "nothing was ever refused"
    assert not list(tmp_path.glob("place/**/evil*"))


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("unet/config.json", "sample_size", 10**6), ("unet/config.json", "layers_per_block", 10**9),
        ("unet/config.json", "block_out_channels", [8] * 10**5), ("vae/config.json", "block_out_channels", [8] * 30),
        ("text_encoder/config.json", "max_position_embeddings", 10**6),
        ("text_encoder/config.json", "hidden_size", 10**9),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**8),
        ("audio_to_image.json", "steps", "many"), ("audio_to_image.json", "steps", 10**9),
    ],
)  # fmt: skip
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_sizes_of_no_model(engine: str, file: str, key: str, value: Any, tiny: Path, tmp_path: Path) -> None:
    """A setting that needs too much memory or time is refused by name when the model is loaded."""
    path = Path(shutil.copytree(tiny, tmp_path / "model")) / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | {key: value}))
    with pytest.raises(UserError, match=key) as refused:
        engines.load(engine, tmp_path / "model")
    assert refused.value.code == os.EX_UNAVAILABLE


def test_a_network_larger_than_its_weights(tiny: Path, tmp_path: Path) -> None:
    """A model with far fewer weights than its sizes need is refused before VRAM is allocated for it."""
    path = Path(shutil.copytree(tiny, tmp_path / "model")) / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": [80_000, 160_000]}))
    with pytest.raises(UserError, match=r"parameters, the files have \d+"):
        engines.load("torch", tmp_path / "model")


def test_image_models_for_pytorch(
    tiny: Path, tmp_path: Path, size: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """Hostile and damaged files of an image model that PyTorch opens: a picture or one line, no code, no hub."""
    ends = [
        end
        for kind in ("json", "safetensors")[: size(1, 2)]
        for end in tried("cuda", kind, size(6, 500), tiny, tmp_path)
    ]
    record_property("tried", len(ends))
    assert not (bad := [end for end in ends if wrong(end)]), f"{len(bad)} of {len(ends)}: {bad[:3]}"


# ---- speech models


def hostile_ggml(rng: random.Random, content: bytes) -> bytes:
    """A speech model with a number that lies: a size, a length of a word or a name, a tensor's type or shape."""
    changed = bytearray(content)
    names = [
        b"encoder.conv1.weight",
        b"decoder.positional_embedding",
        b"encoder.blocks.0.attn.out.bias",
        b"decoder.ln.bias",
    ]
    lies = [0, 1, -1, 3, 5, 1000, 99_999, 2**31 - 1, -(2**31), rng.getrandbits(31)]
    filters = 48 + 8 + 4 * 80 * 201
    name = content.index(rng.choice(names)) - 4 * rng.randint(1, 5)
    places = [rng.randrange(4, 48, 4), rng.choice([48, 52]), filters, filters + 4, name, name, name]
    match rng.randrange(6):
        case 0:
            return hostile.damaged(rng, content)
        case 1:
            return hostile.flipped(rng, content[:48]) + content[48:]
        case 2:
            name = rng.randrange(filters, len(content) - 4)
            struct.pack_into("<i", changed, name, rng.choice(lies))
        case _:
            struct.pack_into("<i", changed, rng.choice(places), rng.choice(lies))
    return bytes(changed)


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper_fixture.write(tmp_path_factory.mktemp("ggml") / "english.bin", "a red apple")


def heard(path: Path) -> str:
    """What a speech model that the user names makes of a second of silence."""
    chosen = choose(Request(str(path)))
    assert chosen.path
    with Whisper(chosen.path, threads=1) as recogniser:
        recogniser.wait_until_loaded()
        return recogniser.transcribe(SECOND).text


def test_speech_models(
    english: Path, tmp_path: Path, size: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """Hostile and damaged speech models give words or one line, in a process with limited memory."""
    content, path, count, refused = english.read_bytes(), tmp_path / "model.bin", size(15, 1000), 0
    allowed = max(
        1_000_000, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    )  # kB; PyTorch may have been a child
    record_property("tried", count)
    for seed in range(count):
        path.write_bytes(hostile_ggml(random.Random(seed), content))
        try:
            heard(path)
        except UserError as error:
            refused += 1
            line = printable(error.message)
            assert error.code == os.EX_DATAERR and error.remedy and 10 < len(line) < 1000, f"seed {seed}: {line}"
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        assert most <= allowed, f"seed {seed}: {most} kB"
    assert refused > count // 3


def test_lies_that_whisper_would_believe(english: Path, tmp_path: Path) -> None:
    """Lengths in a speech model that make whisper.cpp allocate or overflow: it never reads them."""
    content, path = english.read_bytes(), tmp_path / "model.bin"
    filters, name = 48 + 8 + 4 * 80 * 201, content.index(b"encoder.conv1.weight") - 4 * 6
    (words,), one = struct.unpack_from("<i", content, filters), struct.pack("<i", 1)
    lies = {
        "more dimensions than there are places for": b"".join(
            [content[:name], struct.pack("<i", 5), content[name + 4 : name + 24], one, one, content[name + 24 :]]
        ),
        "more words than a vocabulary has": b"".join(
            [content[:filters], struct.pack("<i", 60_000 + words), bytes(4 * 60_000), content[filters + 4 :]]
        ),
        "a word of a gigabyte": content[: filters + 4] + struct.pack("<i", 2**30) + content[filters + 8 :],
        "filters of gigabytes": content[:52] + struct.pack("<i", 2**24) + content[56:],
        "a context of a billion": content[:8] + struct.pack("<i", 10**9) + content[12:],
        "a tensor that ends behind the file": content[:-4],
    }  # fmt: skip
    path.write_bytes(content)
    assert choose(Request(str(path)))
    for what, lie in lies.items():
        path.write_bytes(lie)
        with pytest.raises(UserError, match=r"points past the end of the file|not a Whisper model") as refused:
            choose(Request(str(path)))
        assert refused.value.code == os.EX_DATAERR, what


# ---- archives


def test_archives(
    tmp_path: Path, size: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """Damaged archives are unpacked byte for byte or refused; nothing is written outside the model's folder."""
    members = {f"x_compiled/{path}": body for path, body in COMPILED.items()}
    content, count, refused = zipped(members), size(100, 5000), 0
    record_property("tried", count)
    directory = content.index(b"PK\x01\x02")
    for seed in range(count):
        rng = random.Random(seed)
        changed = bytearray(content)
        if rng.random() < 0.3:
            changed = bytearray(hostile.damaged(rng, content))
        else:  # in the directory, where names, sizes and kinds stand
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(directory, len(content))
                value = rng.choice(
                    [rng.randbytes(1), rng.randbytes(4), b"../", b"/", b"\\", b"\0", b"\xff" * 8, bytes(4)]
                )
                changed[at : at + len(value)] = value
        place = tmp_path / str(seed)
        place.mkdir()
        (place / "x.zip").write_bytes(changed)
        try:
            archive.unpack(place / "x.zip", place / "model", "x.zip", "a" * 64)
        except UserError as error:
            refused += 1
            assert error.code == os.EX_DATAERR and len(printable(error.message)) < 1000, f"seed {seed}"
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        for path in place.rglob("*"):
            assert not path.is_symlink() and path.resolve().is_relative_to(place.resolve()), f"seed {seed}"
        assert {path.name for path in place.iterdir()} <= {"x.zip", "model"}, f"seed {seed}"
        written = [path for path in place.glob("model/**/*") if path.is_file() and path.name != archive.LIST]
        assert all(path.read_bytes() in COMPILED.values() for path in written) or refused, f"seed {seed}"
        shutil.rmtree(place)
    assert count // 3 < refused < count


# ---- pickles


class Canary:
    """What a pickle can do to whoever opens it."""

    def __init__(self, sings: Path) -> None:
        self.sings = sings

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sings),)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_pickles(engine: str, tiny: Path, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Pickle files, under their own or another file type's name, are refused and never opened."""
    sings = tmp_path / "it sings"
    song = pickle.dumps({"state_dict": Canary(sings)}), b"PK\x05\x06" + bytes(18)
    pickle.loads(song[0])
    assert sings.is_dir(), "the canary would not be heard"
    sings.rmdir()
    names = ["diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt", "model.pt", "model.pth", "model.pkl"]
    names += ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "model.safetensors"]
    record_property("tried", len(names) * 2)
    for name in names:
        for part in ("unet", "text_encoder"):
            folder = Path(shutil.copytree(tiny, tmp_path / "model"))
            for file in (folder / part).glob("*.safetensors"):
                file.unlink()
            (folder / part / name).write_bytes(song[0])
            with pytest.raises(UserError) as refused:
                engines.load(engine, folder)
            assert refused.value.code == os.EX_UNAVAILABLE and "\n" not in refused.value.message, name
            assert not sings.exists(), name
            shutil.rmtree(folder)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_code_of_a_model(
    engine: str, tiny: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Model settings that name the author's code, or another model: that code is not run or downloaded."""
    ends = tried(engine, "code", len(hostile.CODE), tiny, tmp_path)
    record_property("tried", len(ends))
    assert not (bad := [end for end in ends if wrong(end)]), bad


# ---- models of Core ML


def test_compiled_models(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Folders that look like compiled Core ML models but are not: one line, before Core ML reads them."""
    described = {"name": "sample", "shape": "[2, 4, 64, 64]", "dataType": "Float16"}
    good = json.dumps([{"inputSchema": [described]}])
    texts = [
        "",
        "[]",
        "{}",
        "null",
        "[" * 200_000,
        "[7]",
        '[{"inputSchema": 3}]',
        '[{"inputSchema": [{}]}]',
        good,
        good[:-9],
    ]
    for shape in (
        "",
        "[]",
        "[1]",
        "7",
        '["a"]',
        "[-1, 4, 64, 64]",
        "[1, 4, 1e9, 1e9]",
        f"[2, 4, {10**9}, {10**9}]",
        "[" * 10**5,
    ):
        texts.append(json.dumps([{"inputSchema": [described | {"shape": shape}]}]))
    texts += [
        json.dumps([{"inputSchema": [described | {"dataType": kind}]}]) for kind in ("", "Object", 7, None, "x" * 10**6)
    ]
    record_property("tried", len(texts) + 1)
    for number, text in enumerate(texts):
        folder = tmp_path / str(number)
        for part in ("TextEncoder", "Unet", "VAEDecoder"):
            (folder / f"{part}.mlmodelc").mkdir(parents=True)
            (folder / f"{part}.mlmodelc" / "metadata.json").write_text(text)
        with pytest.raises(UserError) as refused:
            engines.load("coreml", folder)
        assert refused.value.code == os.EX_UNAVAILABLE and len(printable(refused.value.message)) < 1000, text[:100]
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "Unet.mlmodelc").write_bytes(b"no folder")
    with pytest.raises(UserError, match=r"has no Unet\.mlmodelc"):
        engines.load("coreml", tmp_path / "file")
