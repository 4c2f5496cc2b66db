"""Files of models as somebody who means harm would write them, and a process that tries to use them:

    python tests/hostile.py ENGINE KIND FIRST LAST MODEL FOLDER

Trial N is a copy of MODEL in FOLDER, with one file of KIND changed as the seed N says, that ENGINE draws with.
Each trial is a line of JSON on stdout: its number when it begins, and how it ended. What ends the process is found by
who reads that; what code of a model's author would do (write, start a program, use a socket, unpickle) is noted.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import resource
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.core.errors import UserError
from helpers.core.text import printable

PATIENCE = 60  # seconds that a trial may take before it counts as hanging; the machine may be busy
MEMORY = 16 << 30  # bytes of address space: what asks for more is stopped before the machine is
NUMBERS = [0, -1, 1, 2, 3, 7, 1000, 10**6, 10**9, 2**31, 2**32 + 1, 2**53, 2**63 - 1, 2**63, 2**64, 10**400, 0.5, 1e308]
DEEP: Any = None
for _ in range(900):
    DEEP = [DEEP]
VALUES = [
    *NUMBERS, -(10**9), float("nan"), float("inf"), None, True, False, "", "x", "../../../etc/passwd", "\x1b[2J\n\r\0",
    "A" * 100_000, [], {}, [[]], {"a": 1}, [None], [10**9] * 4, [1] * 10**5, ["x"] * 40, DEEP, [0], [8, 16], [-1, -1],
]  # fmt: skip
CODE = {
    "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}, "custom_pipeline": "evil",
    "_attn_implementation": "evil/kernel", "attn_implementation": "evil/kernel", "transformers_weights": "../evil.bin",
    "quantization_config": {"quant_method": "gptq", "bits": 4}, "_name_or_path": "evil/model", "torch_dtype": "evil",
    "trust_remote_code": True, "architectures": ["Evil"], "use_kernels": True,
}  # fmt: skip


def flipped(rng: random.Random, content: bytes) -> bytes:
    """One to eight bytes changed."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def damaged(rng: random.Random, content: bytes) -> bytes:
    """As a bad disk or a bad line leaves a file."""
    at = rng.randrange(len(content))
    return rng.choice(
        [
            flipped(rng, content),
            content[:at],
            content + rng.randbytes(rng.randint(1, 5000)),
            b"",
            rng.randbytes(len(content)),
            content[:at] + bytes(len(content) - at),
            content[at:],
            content[:at] + content,
        ]
    )


def hostile_safetensors(rng: random.Random, content: bytes) -> bytes:
    """Weights whose header lies."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    name = rng.choice([name for name in header if name != "__metadata__"])
    tensor = header[name]
    announced = 0

    def number() -> Any:
        return rng.choice([*NUMBERS, *tensor["data_offsets"], len(data), tensor["data_offsets"][0] + 1])

    def another(part: Any) -> None:
        del header[name]
        header[rng.choice(["", "x" * 5000, "../x", "__metadata__", name + ".more", "\0"])] = part

    match rng.randrange(12):
        case 0:
            return damaged(rng, content)
        case 1:
            head = damaged(rng, content[8 : 8 + length])
            return struct.pack("<Q", len(head)) + head + data
        case 2:
            announced = rng.choice([1, 2, length - 1, length + 1, len(content), 10**8 + 1, 2**63, 2**64 - 9, 2**64 - 1])
        case 3:
            tensor["dtype"] = rng.choice(
                ["F64", "F32", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "C64", "F4", "", "X", 7, None]
            )
        case 4:
            tensor["shape"] = [number() for _ in range(rng.randrange(5))]
        case 5:
            tensor["data_offsets"] = [number() for _ in range(rng.choice([0, 1, 2, 2, 2, 2, 3]))]
        case 6:
            tensor[rng.choice(["shape", "data_offsets", "dtype"])] = rng.choice(VALUES[:-4])
        case 7:
            another(tensor)
        case 8:
            header["__metadata__"] = rng.choice(
                [None, 3, [], {"format": "np"}, {"format": 7}, {"a": {}}, {"x": "y" * 10**6}]
            )
        case 9:  # right, but every tensor lies at an odd address
            head = json.dumps(header).encode() + b" " * rng.randrange(1, 8)
            return struct.pack("<Q", len(head)) + head + data
        case 10:  # right, but NaN
            begin, end = tensor["data_offsets"]
            data = data[:begin] + bytes([255]) * (end - begin) + data[end:]
        case 11:  # another tensor of the same bytes, in another shape
            tensor["shape"] = rng.choice(
                [tensor["shape"][::-1], [*tensor["shape"], 1], [1, *tensor["shape"]], [-1], []]
            )
    with contextlib.suppress(RecursionError):
        head = json.dumps(header).encode()
        return struct.pack("<Q", announced or len(head)) + head + data
    return content[:9]


def hostile_json(rng: random.Random, content: bytes) -> bytes:
    """A configuration that is none, or whose values are of another kind, absurd, or name code."""
    config = json.loads(content)
    what = rng.randrange(10)
    if what == 0 or not config:
        return damaged(rng, content)
    if what == 1:
        deep, marked = [b"[" * 200_000, b'{"a":' * 100_000], [b"\xff\xfe{}", b"\xef\xbb\xbf{}"]
        return rng.choice([b"[]", b"null", b"7", b'"x"', b"1" * 10_000, *deep, *marked])
    key = rng.choice(list(config))
    if what == 2:
        del config[key]
    elif what == 3:
        more = rng.choice(list(CODE))
        config[more] = CODE[more]
    elif what == 4 and isinstance(config[key], list) and config[key]:
        config[key][rng.randrange(len(config[key]))] = rng.choice(VALUES)
    elif what == 5:  # several absurd sizes at once, so that they agree with each other
        size = rng.choice([n for n in NUMBERS if isinstance(n, int) and n > 7])
        for one in [name for name, value in config.items() if isinstance(value, int) and not isinstance(value, bool)]:
            if rng.random() < 0.5:
                config[one] = size
    else:
        config[key] = rng.choice(VALUES)
    try:
        return json.dumps(config).encode()
    except (RecursionError, ValueError):
        return b"{" * 50_000


def hostile_text(rng: random.Random, content: bytes) -> bytes:
    """A vocabulary, or the list of its merges."""
    if content[:1] == b"{" and rng.random() < 0.7:
        return hostile_json(rng, content)
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = rng.choice([b"", b"a", b"a b c", b"\xff \xfe", b"A" * 10**6, b"a b " * 10**5, rng.randbytes(50)])
    return rng.choice([damaged(rng, content), b"\n".join(lines), b"\n".join(rng.sample(lines, len(lines)))])


KINDS: dict[str, tuple[Callable[[random.Random, bytes], bytes], Callable[[Path], bool]]] = {
    "safetensors": (hostile_safetensors, lambda file: file.suffix == ".safetensors"),
    "json": (hostile_json, lambda file: file.suffix == ".json" and file.name != "vocab.json"),
    "tokenizer": (
        hostile_text,
        lambda file: file.parent.name == "tokenizer" or file.name in ("vocab.json", "merges.txt"),
    ),
    "damage": (damaged, lambda file: True),
}


def name_code(folder: Path, key: str) -> str:
    """Have every configuration name code that lies beside it, or another model, by `key`."""
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        (place / "evil.py").write_text("import os\nos.mkdir('it sings')\nclass Evil: pass\n")
    for config in [folder / "model_index.json", *folder.glob("*/*config.json")]:
        config.write_text(json.dumps(json.loads(config.read_text()) | {key: CODE[key]}))
    return key


def change(folder: Path, kind: str, seed: int) -> str:
    """Change one file in `folder`; returns its name. Now and then it is another file of the model under its name."""
    if kind == "code":
        return name_code(folder, list(CODE)[seed])
    rng = random.Random(seed)
    hostile, belongs = KINDS[kind]
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    file = rng.choice([file for file in files if belongs(file)])
    if rng.random() < 0.05:
        shutil.copy(rng.choice(files), file.with_name("other"))
        file.with_name("other").replace(file)
    else:
        file.write_bytes(hostile(rng, file.read_bytes()))
    return str(file.relative_to(folder))


def memory() -> int:
    """Bytes of memory that this process has used at most since it was last asked."""
    status = Path("/proc/self/status").read_text()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main() -> None:
    engine, kind, first, last, model, folder = sys.argv[1:]
    place, did, now = Path(folder), list[str](), [""]
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    from helpers.core import openvino
    from helpers.draw import diffusion, engines

    def draw(folder: Path, steps: int) -> None:
        loaded = engines.load(engine, folder)
        text, unwanted = (loaded.encode_text(loaded.tokenizer.encode(words).ids) for words in ("a red heart", ""))
        diffusion.draw(loaded, text, unwanted, seed=1, steps=steps, guidance=2.0, sampler="ddim")

    def tell(**what: object) -> None:
        pipe.write(json.dumps(what) + "\n")
        pipe.flush()

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        if not now[0]:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes and not str(arguments[0]).startswith((str(openvino.CACHE), "/dev/null", "/proc/self")):
            did.append(f"wrote {arguments[0]}")
        if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "pickle.find_class")):
            did.append(f"{event} {arguments}"[:200])

    openvino.CACHE = place.parent / "cache" / "openvino"
    draw(Path(model), 1)  # brings what is loaded once
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.addaudithook(seen)
    usual = memory()
    for seed in range(int(first), int(last)):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(model, place)
        file = change(place, kind, seed)
        tell(began=seed, file=file)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        now[0] = file
        try:
            draw(place, 1)
            end: dict[str, object] = {"code": 0, "message": ""}
        except UserError as error:
            end = {"code": error.code, "message": printable(error.message), "remedy": error.remedy}
        except BaseException as error:
            end = {"code": None, "message": f"{type(error).__name__}: {error}"[:500]}
        now[0] = ""
        faulthandler.cancel_dump_traceback_later()
        tell(ended=seed, file=file, did=did[:], megabytes=max(0, memory() - usual) >> 20, **end)
        did.clear()


if __name__ == "__main__":
    main()
