"""The registry of recognisers: a new one is one module and one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helpers.core.errors import UserError
from helpers.listen import recognisers
from helpers.listen.recognisers import Kind, Request
from helpers.listen.transcript import Transcript

PARROT = """
import contextlib

from helpers.listen.transcript import Transcript


class Parrot:
    name, languages, translates = "parrot 1.0", "any", False

    def transcribe(self, pcm):
        return Transcript(f"{len(pcm)} bytes", "de", 0.5)


@contextlib.contextmanager
def load(choice):
    assert choice.language == "de"
    yield Parrot()
"""


@pytest.fixture(autouse=True)
def parrot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_parrot.py").write_text(PARROT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(recognisers.RECOGNISERS, "parrot", Kind("a_parrot", "the parrot", "any"))


def test_a_new_recogniser_by_name(tmp_path: Path) -> None:
    with recognisers.load(Request("parrot", "de", models=tmp_path)) as recogniser:
        assert recogniser.name == "parrot 1.0"
        assert recogniser.transcribe(bytes(10)) == Transcript("10 bytes", "de", 0.5)


def test_it_is_used_for_what_no_other_can_do(tmp_path: Path) -> None:
    assert recognisers.choose(Request("", "de", models=tmp_path)).kind == "parrot"
    assert recognisers.choose(Request("", "en", models=tmp_path)).kind == "builtin"


def test_what_it_cannot_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the parrot cannot translate"):
        recognisers.choose(Request("parrot", "de", translate=True, models=tmp_path))


def test_a_module_is_imported_only_when_it_is_used(tmp_path: Path) -> None:
    sys.modules.pop("a_parrot", None)
    recognisers.choose(Request("parrot", "de", models=tmp_path))
    assert "a_parrot" not in sys.modules
