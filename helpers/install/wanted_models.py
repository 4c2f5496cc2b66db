"""The models that the installer downloads: those that the user names, or the best ones for this machine.

`python -m helpers.install.wanted_models [NAME…]` prints a line for each, tab-separated: name, size, `here` or
`missing`, folder. On Python 3.11 and newer it needs no packages: the installer shows its plan before it makes .venv.
"""

from __future__ import annotations

import sys
from pathlib import Path

from helpers.catalog import catalog
from helpers.catalog.catalog import Entry
from helpers.core import stage
from helpers.core.paths import ROOT
from helpers.core.settings import Settings
from helpers.draw import engines
from helpers.listen import recognisers

NAME = "wanted_models"


def suitable(settings: Settings) -> list[Entry]:
    """The speech model for the user's language and the image model for the engine of this machine."""
    models = catalog.read(settings.models)
    engine = engines.available(settings.engine)[0]
    speech = models.speech(settings.language, bool(settings.translate))
    if Path(sys.prefix).resolve() == (ROOT / ".venv").resolve():  # the system's packages are not those of .venv
        speech = recognisers.default_model(settings.language, bool(settings.translate), models)
    return [speech, models.default(engines.role(engine))]


def main(argv: list[str] | None = None) -> int:
    settings = Settings.from_environment()
    names = sys.argv[1:] if argv is None else argv
    models = catalog.read(settings.models)
    for entry in [models.find(name) for name in names] or suitable(settings):
        state = "here" if entry.is_present() else "missing"
        print(entry.name, catalog.human(entry.bytes), state, entry.folder, sep="\t")
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
