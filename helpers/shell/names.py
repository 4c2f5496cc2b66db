"""Says why a model or an engine that the user named cannot be used:  python -m helpers.shell.names KIND NAME

pipeline.sh knows most good names without Python, and asks here about the others before the microphone opens.
"""

from __future__ import annotations

import os
from pathlib import Path

from helpers.adapt import other_forms
from helpers.catalog import catalog
from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.text import printable
from helpers.draw.engines import ENGINES, SPELLINGS


def check(kind: str, name: str) -> None:
    """kind: "image" or "whisper" for a model of the catalogue (or a recogniser), or "engine".

    A name with a slash is a path.

    Raises: UserError 64 for a name that does not exist, or is a model of another kind; 66 for a path that does not
    exist; 69 for a model in a form that is not read.
    """
    if kind == "engine":
        if name not in ENGINES and name not in SPELLINGS:
            message = f"A2I_ENGINE: there is no engine {printable(name)[:80]!r}"
            raise UserError(os.EX_USAGE, message, f"Engines: {', '.join(ENGINES)}.")
        return
    models = catalog.read()
    if "/" in name:
        path = Path(name)
        if not path.exists():
            raise other_forms.missing(name, kind, models)
        if kind == "image":
            other_forms.check(path)
        return
    if kind == "whisper" and name in catalog.SPEECH:
        return
    kinds = catalog.SPEECH if kind == "whisper" else (kind,)
    found = models.find(name, kinds).kind
    if found not in kinds:
        what = "draws no pictures" if kind == "image" else "recognises no speech"
        message = f"{name} {what} (kind: {found})"
        raise UserError(os.EX_USAGE, message, "./download_model.py list shows all models.")


def main(argv: list[str] | None = None) -> int:
    parser = stage.Parser(prog="python -m helpers.shell.names", description="Check the name of a model or an engine.")
    parser.add_argument("kind", choices=("image", "whisper", "engine"))
    parser.add_argument("name")
    arguments = parser.parse_args(argv)
    check(arguments.kind, arguments.name)
    return 0


if __name__ == "__main__":
    stage.run("pipeline", main)
