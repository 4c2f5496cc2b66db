"""Whether what is said is translated where the user does not say so: it is if the image model reads English only, and
the recogniser can translate.

`python -m helpers.listen.translation` prints 1 or 0, and says why. pipeline.sh asks before it starts the stages,
because several have to know: what is translated is also corrected, confirmed and understood as English.
"""

from __future__ import annotations

import logging

from helpers.catalog import catalog
from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.settings import Settings
from helpers.listen import recognisers
from helpers.listen.recognisers import Choice, Request

NAME = "translation"


def decided(settings: Settings) -> tuple[bool, str]:
    """(Whether to translate, what to say about it.) Nothing is said where there is nothing to decide."""
    if settings.translate is not None:
        return settings.translate, ""
    models = catalog.read(settings.models)
    if settings.language == "en" or models.reads(settings.model) != "en":
        return False, ""
    spoken, english = (_choice(settings, translate) for translate in (False, True))
    model = settings.model or "the image model"
    if english and (not settings.whisper or not spoken or english.path == spoken.path):
        return True, f"{model} reads English only: what you say is translated; --no-translate leaves it as it is"
    if not spoken:
        return False, ""  # transcribe says what is wrong
    if english and english.path:
        able = f"--whisper {recognisers.name_of(english.path)}"
    else:
        able = f"./download_model.py {recognisers.default_model(settings.language, True, models).name}"
    return False, f"{model} reads English only, and the recogniser cannot translate; one that can: {able}"


def _choice(settings: Settings, translate: bool) -> Choice | None:
    try:
        return recognisers.choose(Request(settings.whisper, settings.language, translate, models=settings.models))
    except UserError:
        return None


def main(argv: list[str] | None = None) -> int:
    settings = Settings.from_environment()
    logging.getLogger("helpers").setLevel(logging.ERROR)  # transcribe says which recogniser is used
    translates, what = decided(settings)
    if what:
        stage.say(what)
    print(int(translates))
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
