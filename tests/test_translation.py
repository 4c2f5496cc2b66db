"""Whether speech is translated where the user does not say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.catalog import catalog
from helpers.core import extras, nvidia_driver
from helpers.core.settings import Settings
from helpers.listen import recognisers, translation
from helpers.listen.recognisers import Choice

TURBO = "large-v3-turbo-q5_0"


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that are on this machine, without files."""
    names: list[str] = []
    monkeypatch.setattr(
        recognisers, "_choice", lambda request, kind, path=None: Choice(kind, path, "", request.translate, None)
    )
    monkeypatch.setattr(catalog.Entry, "problem", lambda entry: "" if entry.name in names else "missing")
    monkeypatch.setattr(extras, "missing", lambda name: name)
    monkeypatch.setattr(nvidia_driver, "is_loaded", lambda: False)
    return names


@pytest.mark.parametrize(
    ("here", "settings", "translates", "said"),
    [
        (["base-q5_1"], {"language": "de"}, True, "the image model reads English only: what you say is translated"),
        (["base-q5_1"], {"language": "auto"}, True, "--no-translate leaves it as it is"),
        (["base-q5_1"], {"language": "de", "model": "sdxl-turbo"}, True, "sdxl-turbo reads English only"),
        (["base-q5_1"], {"language": "de", "model": "/my/model"}, False, ""),  # nobody knows what it reads
        (["base-q5_1"], {"language": "en"}, False, ""),
        (["base-q5_1"], {"language": "de", "translate": False}, False, ""),
        (["base-q5_1"], {"language": "de", "translate": True}, True, ""),
        ([TURBO], {"language": "de"}, False, "cannot translate; one that can: ./download_model.py base-q5_1"),
        ([TURBO, "base-q5_1"], {"language": "de"}, True, "what you say is translated"),
        ([TURBO, "base-q5_1"], {"language": "de", "whisper": TURBO}, False, "one that can: --whisper base-q5_1"),
        (["base-q5_1"], {"language": "de", "whisper": "base-q5_1"}, True, "what you say is translated"),
        ([], {"language": "de"}, False, ""),  # the recogniser says what is wrong
    ],
)
def test_the_rule(
    tmp_path: Path, disk: list[str], here: list[str], settings: dict[str, Any], translates: bool, said: str
) -> None:
    disk += here
    decided, line = translation.decided(Settings(models=tmp_path, **settings))
    assert decided == translates
    assert said in line and bool(said) == bool(line) and "\n" not in line


def test_a_model_that_reads_any_language_needs_none(tmp_path: Path, disk: list[str]) -> None:
    disk.append("base-q5_1")
    models = catalog.read(tmp_path)
    any_language = models._replace(
        entries={name: entry._replace(languages="any") for name, entry in models.entries.items()}
    )
    assert [any_language.reads(""), any_language.reads("sd-turbo")] == ["any", "any"]
    assert [models.reads(""), models.reads("sd-turbo"), models.reads("/mine")] == ["en", "en", ""]


def test_the_answer_is_a_digit_and_the_reason_is_for_people(
    tmp_path: Path, disk: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk += [TURBO, "base-q5_1"]
    for name, value in {"LANGUAGE": "de", "WHISPER": TURBO, "MODELS": str(tmp_path)}.items():
        monkeypatch.setenv(f"A2I_{name}", value)
    assert translation.main([]) == 0
    printed = capsys.readouterr()
    assert printed.out == "0\n" and printed.err.count("\n") == 1 and "--whisper base-q5_1" in printed.err
