"""Holds Apple's CoreMLStableDiffusionPipeline for apple.py, in the Python that A2I_APPLE_PYTHON names.

    python apple_worker.py

That Python is old and has none of our packages, so this file imports nothing of ours and runs on Python 3.8.

It talks on stdin and stdout. A message is a line of JSON in which `bytes` is the length of what follows it: arrays as
an .npz, or nothing. The first message is sent from here and has the versions. Then each request has one answer: the
first names a folder and a compute unit, those after it a network and its inputs. An answer with `error` says what went
wrong. The program ends when stdin does.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NETWORKS = {
    "TextEncoder": "text_encoder",
    "TextEncoder2": "text_encoder_2",
    "Unet": "unet",
    "VAEDecoder": "vae_decoder",
}


def read(requests: queue.SimpleQueue[tuple[dict[str, Any], bytes]]) -> None:
    """Take requests from stdin. At its end the parent is gone: end at once, also in the middle of a computation."""
    stdin = os.fdopen(0, "rb")
    while line := stdin.readline():
        asked = json.loads(line)
        requests.put((asked, stdin.read(asked["bytes"])))
    os._exit(0)


def load(folder: str, unit: str) -> Any:
    """Apple's pipeline with the networks of `folder`, by Apple's own loader.

    Its tokenizer and scheduler would come from a repository that was withdrawn. It gets none: the parent sends token
    ids, and takes the steps between two calls of the Unet itself.
    """
    apple = importlib.import_module("python_coreml_stable_diffusion.pipeline")
    known = SimpleNamespace(tokenizer=None, tokenizer_2=None, scheduler=None, feature_extractor=None)
    kind = "xl" if (Path(folder) / "TextEncoder2.mlmodelc").is_dir() else "sd"
    return apple.get_coreml_pipe(known, folder, kind, unit, sources="compiled")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    del sys.path[0]  # this folder: its modules are called like packages
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    requests: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    threading.Thread(target=read, args=(requests,), daemon=True).start()

    def answer(said: dict[str, Any], arrays: bytes = b"") -> None:
        out.write(json.dumps({**said, "bytes": len(arrays)}).encode() + b"\n" + arrays)
        out.flush()

    try:
        import numpy as np

        coremltools = importlib.import_module("coremltools")
        package = importlib.import_module("python_coreml_stable_diffusion")
        importlib.import_module("python_coreml_stable_diffusion.pipeline")
        name = "python_coreml_stable_diffusion"
        answer({"version": f"{name} {package.__version__}, coremltools {coremltools.__version__}"})
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    pipeline: Any = None
    while True:
        asked, sent = requests.get()
        try:
            if "folder" in asked:
                pipeline = load(asked["folder"], asked["unit"])
                answer({})
                continue
            with np.load(io.BytesIO(sent), allow_pickle=False) as arrays:
                outputs = getattr(pipeline, NETWORKS[asked["network"]])(**arrays)
            packed = io.BytesIO()
            np.savez(packed, **outputs)
            answer({}, packed.getvalue())
        except Exception as error:  # Core ML's are plain ones
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
    os._exit(0)  # the thread that reads stdin holds its lock
