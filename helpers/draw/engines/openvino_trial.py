"""Try one of OpenVINO's devices with one model, in a process of its own: a device or its driver may crash it.

    python -m helpers.draw.engines.openvino_trial FOLDER DEVICE

Prints the seconds of one step of the UNet. Ends with an error if a network's output cannot be right, or if another
device computed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from helpers.adapt.checkpoint import Checkpoint
from helpers.core.stage import run, take_stdout
from helpers.draw.engines import Options, openvino_engine
from helpers.draw.engines.coreml_trial import seconds_of_a_step


def main(argv: list[str] | None = None) -> int:
    folder, device = argv or sys.argv[1:]
    pipe = take_stdout()
    engine = openvino_engine.load_on(
        device, Checkpoint(Path(folder)), Options(), size=None, guidance=True, precision=""
    )
    pipe.write(f"{seconds_of_a_step(engine)}\n".encode())
    pipe.close()
    return 0


if __name__ == "__main__":
    run("openvino", main)
