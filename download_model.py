#!/usr/bin/env -S python3 -E
"""Fetch, check and remove the models of models/catalog.toml.

A download that was cut is continued by the next run; nothing is used before its size and SHA-256 have been checked.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `stage.run` handles it, Ctrl-C must not show a traceback

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH leaves it out

from helpers.adapt import found, other_forms
from helpers.catalog import catalog, fetch, hub
from helpers.catalog.catalog import Catalog, Entry, human
from helpers.catalog.hub import Patience
from helpers.core import interpreter, stage
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.settings import Settings, add_options, with_arguments

NAME = "download_model"


def main(argv: list[str] | None = None) -> int:
    settings = Settings.from_environment(names=["language", "translate", "models", "search", "quiet", "verbose"])
    arguments = parse(argv, settings)
    settings = with_arguments(settings, arguments)
    stage.begin(NAME, settings)
    os.umask(os.umask(0o022) | 0o022)  # a model that others could write to, they could change
    models = catalog.read(settings.models)
    entries = [named(name, models) for name in arguments.names if name != "list"]
    if arguments.offer:
        entries = entries or [models.speech(settings.language, bool(settings.translate))]
        return 0 if all(offer(entry) for entry in entries) else os.EX_UNAVAILABLE
    if arguments.verify:
        fetch.verify(entries or [entry for entry in models.entries.values() if entry.files and entry.is_present()])
    elif arguments.found:
        print(found.listing(found.found(found.home_folder(), settings.search, hub.cache())))
    elif arguments.remove:
        for entry in entries:
            fetch.remove(entry, compiled_copies(entry))
    elif entries:
        for entry in entries:
            fetch.fetch(entry, hub.usual_patience(), progress=sys.stderr.isatty() and not settings.quiet)
            print(entry.path)
    else:
        print(listing(models))
    return 0


def named(name: str, models: Catalog) -> Entry:
    """The model called `name`, here or on the hub (OWNER/NAME, or its page). Raises: UserError 64."""
    found = (other_forms.of_hub(name, kind, models) for kind in ("image", "whisper") if "/" in name)
    return next(filter(None, found), None) or models.find(name)


def compiled_copies(entry: Entry) -> list[Path]:
    """The files that the OpenVINO engine has compiled from a model."""
    if "openvino" not in entry.engines and entry.kind not in ("decoder", "filter"):
        return []
    from helpers.draw.engines import openvino_engine

    return openvino_engine.compiled_copies(entry.folder / "safety_checker" if entry.kind == "filter" else entry.folder)


def parse(argv: list[str] | None, settings: Settings) -> argparse.Namespace:
    parser = stage.Parser(
        prog="./download_model.py",
        description="Fetch the named models, or list all models and say which are on this machine.",
        epilog="A download that was cut is continued. Models are kept in models/downloaded, or in $A2I_MODELS.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models of the catalogue, or: list")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--verify", action="store_true", help="check size and SHA-256 of the named models, or of all")
    what.add_argument("--remove", action="store_true", help="delete the named models")
    what.add_argument(
        "--offer",
        action="store_true",
        help="fetch NAME, or the default speech model, but give up soon",
    )
    what.add_argument("--found", action="store_true", help="list the models that other programs have here")
    add_options(parser, settings, "quiet")
    arguments = parser.parse_args(argv)
    if arguments.found and arguments.names != ["list"]:
        parser.error("it is: list --found")
    if not arguments.names and arguments.remove:
        parser.error("name the model")
    if "list" in arguments.names and (len(arguments.names) > 1 or arguments.verify or arguments.remove):
        parser.error("list stands alone")
    return arguments


def listing(models: Catalog) -> str:
    """One line per model: whether it is here, name, size, licence, what it is; then the models that have no pinned
    SHA-256, and the disk space used."""
    rows = []
    for entry in models.entries.values():
        problem = entry.problem()
        state = "damaged" if problem.startswith("damaged") else "here" if not problem else ""
        rows.append((state, entry.name, human(entry.bytes), entry.license, entry.about))
    width = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{r[0]:{width[0]}}  {r[1]:{width[1]}}  {r[2]:>{width[2]}}  {r[3]:{width[3]}}  {r[4]}" for r in rows]
    if unpinned := [entry for entry in models.entries.values() if entry.unpinned()]:
        lines += ["", "No SHA-256 is pinned for these. A download of them is checked against the hub's own hash:"]
        lines += [f"  {entry.name}: {entry.unpinned()}" for entry in unpinned]
    used = sum(file.stat().st_size for file in models.folder.rglob("*") if file.is_file())
    return "\n".join([*lines, "", f"{human(used) if used else 'Nothing'} in {models.folder}"])


def offer(entry: Entry, seconds: float = 5, total: float = 60) -> bool:
    """Fetch a model if the hub answers within `seconds`; whether the model is there afterwards.

    The download has `total` seconds. One that would take longer, as its first `seconds` show, is given up then. For a
    first run that can do without it: whatever goes wrong is one line and no error.
    """

    def give_up(*_: object) -> None:
        raise hub.Unreachable("the hub takes too long", "")

    signal.signal(signal.SIGALRM, give_up)  # wherever it hangs: a hub may send a byte now and then for ever
    signal.setitimer(signal.ITIMER_REAL, total)
    try:
        usual = hub.usual_patience()
        fetch.fetch(entry, Patience(min(seconds, usual.answer), min(4, usual.stall), total, 1), sys.stderr.isatty())
    except UserError as error:
        later = f"Later: ./download_model.py {entry.name}"
        stage.say(f"{entry.name} ({human(entry.bytes)}) could not be fetched: {error.message}. {later}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return entry.is_present()


def use_own_python() -> None:
    """Go on in the repository's .venv if there is one: with the pinned versions, and without PYTHON… variables."""
    python = ROOT / ".venv" / "bin" / "python"
    inside = sys.executable == str(python) or Path(sys.prefix).resolve() == python.parent.parent.resolve()
    if not inside and os.access(python, os.X_OK) and "A2I_INSIDE" not in os.environ:
        environment = os.environ | {"A2I_INSIDE": "1"}  # only once: it may be a wrapper around another Python
        with contextlib.suppress(OSError):
            os.execve(python, [str(python), *interpreter.isolated(), __file__, *sys.argv[1:]], environment)


if __name__ == "__main__":
    use_own_python()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    stage.run(NAME, main, downloads=True)
