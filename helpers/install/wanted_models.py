"""The models that the installer fetches: those that are named, or those that suit this machine.

`python -m helpers.install.wanted_models [NAME…]` prints a line for each, tab-separated: name, size, `here` or
`missing`, folder. From Python 3.11 on it needs nothing else, so that the plan can be shown before anything is there.
"""

from __future__ import annotations

import sys

from helpers.catalog import catalog
from helpers.core.stage import is_set, run, setting
from helpers.draw import engines, generate


def usual() -> list[str]:
    """The speech model for the user's language and the image model for the engine of this machine."""
    english = setting("LANGUAGE", "en") == "en" and not is_set("TRANSLATE")
    engine = engines.available()[0]
    try:
        role = generate.role(engine)
    except ModuleNotFoundError:  # the environment is not there yet; the models of an engine are of about one size
        role = engine
    return [catalog.default(role).name for role in ("english" if english else "multilingual", role)]


def main(argv: list[str] | None = None) -> int:
    for name in (sys.argv[1:] if argv is None else argv) or usual():
        entry = catalog.find(name)
        state = "here" if entry.is_present() else "missing"
        print(entry.name, catalog.human(entry.bytes), state, entry.folder, sep="\t")
    return 0


if __name__ == "__main__":
    run("wanted_models", main)
