"""The registry of recognisers: a new one is one module and one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.catalog import catalog
from helpers.core import extras, nvidia_driver
from helpers.core.errors import UserError
from helpers.listen import recognisers
from helpers.listen.recognisers import Choice, Kind, Request
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


# ---- which one, by machine, language and what is on disk


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Which model is chosen, of those whose names are given."""
    monkeypatch.setattr(recognisers, "_choice", lambda request, kind, path=None: Choice(kind, path, "", False, None))

    def choose(*names: str, **request: Any) -> str:
        present = [entry for entry in catalog.read(tmp_path).entries.values() if entry.name in names]
        assert len(present) == len(names)
        monkeypatch.setattr(catalog.Entry, "is_present", lambda entry: entry in present)
        choice = recognisers.choose(Request(models=tmp_path, **request))
        return next((entry.name for entry in present if entry.path == choice.path), choice.kind)

    return choose


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[str], bool], None]:
    def make(installed: set[str], driver: bool = False) -> None:
        monkeypatch.setattr(extras, "missing", lambda name: "" if name in installed else name)
        monkeypatch.setattr(nvidia_driver, "is_loaded", lambda: driver)

    return make


CPP, FAST = "base.en-q5_1", "faster-whisper-base.en"
TURBO, LARGE = "faster-whisper-large-v3-turbo", "faster-whisper-large-v3"
GPU = {"faster-whisper", "faster-whisper-nvidia"}


@pytest.mark.parametrize(
    ("installed", "driver", "names", "request_", "expected"),
    [
        (set(), False, (CPP, FAST), {}, CPP),
        (set(), False, (FAST,), {}, "builtin"),
        ({"faster-whisper"}, False, (CPP, FAST), {}, FAST),
        ({"faster-whisper"}, False, (CPP, TURBO), {}, CPP),
        ({"faster-whisper"}, True, (CPP, FAST), {}, FAST),
        (GPU, True, (CPP, FAST, TURBO, LARGE), {}, TURBO),
        (GPU, True, (CPP, FAST, LARGE), {}, LARGE),
        (GPU, True, (CPP,), {}, CPP),
        (GPU, False, (CPP, FAST, TURBO), {}, FAST),
        (GPU, True, (TURBO, LARGE), {"language": "de", "translate": True}, LARGE),
        (GPU, True, (TURBO, "base-q5_1"), {"language": "de", "translate": True}, "base-q5_1"),
        ({"faster-whisper"}, False, (CPP, FAST), {"model": "whisper"}, CPP),
        ({"faster-whisper"}, False, (CPP, TURBO), {"model": "faster-whisper"}, TURBO),
        ({"seamless"}, False, ("seamless-m4t-v2-large", "tiny-q5_1"), {"language": "de"}, "tiny-q5_1"),
    ],
)
def test_the_choice(
    disk: Callable[..., str],
    machine: Callable[[set[str], bool], None],
    installed: set[str],
    driver: bool,
    names: tuple[str, ...],
    request_: dict[str, Any],
    expected: str,
) -> None:
    machine(installed, driver)
    assert disk(*names, **request_) == expected


def test_a_missing_extra_is_one_line_with_its_command(disk: Callable[..., str], machine: Callable[..., None]) -> None:
    machine(set())
    for name in ("faster-whisper", FAST):
        with pytest.raises(UserError, match="needs more Python packages") as raised:
            disk(FAST, model=name)
        assert (raised.value.code, raised.value.remedy) == (
            69,
            "Install them: ./shortcut_install.sh --extra faster-whisper",
        )


def test_a_recogniser_without_a_model_names_one(disk: Callable[..., str], machine: Callable[..., None]) -> None:
    machine({"faster-whisper"})
    with pytest.raises(UserError, match="no model of faster-whisper") as raised:
        disk(CPP, model="faster-whisper", language="de")
    assert raised.value.remedy == "Download one: ./download_model.py faster-whisper-base"
