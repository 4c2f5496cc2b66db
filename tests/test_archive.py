"""Archives of compiled models: what is taken out of them, and that no hostile or damaged one puts anything anywhere."""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from downloads import COMPILED as MODEL
from downloads import zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.catalog import archive
from helpers.core.errors import UserError

NOISE = MODEL["Unet.mlmodelc/weights/weight.bin"]


def unpack(content: bytes) -> dict[str, bytes]:
    """What is unpacked from an archive with this content, by path. Nothing may be written anywhere else."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "x.zip").write_bytes(content)
        try:
            archive.unpack(root / "x.zip", root / "in" / "model", "x.zip", "a" * 64)
        finally:
            outside = {path.name for path in [*root.iterdir(), *(root / "in").glob("*")]}
            assert outside <= {"x.zip", "in", "model"}, "something was written beside the model"
        folder = root / "in" / "model"
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()}
        sha256, parts = archive.contents(folder)
        assert sha256 == "a" * 64
        listed = files.pop(archive.LIST)
        assert listed and {part.path: part.bytes for part in parts} == {path: len(body) for path, body in files.items()}
        return files


def refused(content: bytes, says: str = "") -> None:
    with pytest.raises(UserError, match=f"^x.zip cannot be unpacked: .*{says or '.'}") as error:
        unpack(content)
    assert error.value.code == os.EX_DATAERR and "\n" not in error.value.message


@pytest.mark.parametrize("top", ["", "x_compiled/", "x_compiled/compiled/"])
def test_the_model_lies_at_the_top(top: str) -> None:
    assert unpack(zipped({top + path: body for path, body in MODEL.items()})) == MODEL


def test_folders_of_their_own_are_no_files() -> None:
    folders = {"x/": b"", "x/Unet.mlmodelc/": b"", "x/Unet.mlmodelc/weights/": b""}
    assert unpack(zipped(folders | {f"x/{path}": body for path, body in MODEL.items()})) == MODEL


def test_what_is_not_the_model_is_left_out() -> None:
    other = {
        "__MACOSX/x/._merges.txt": b"1",
        "x/.DS_Store": b"2",
        "x/Unet.mlmodelc/._model.mil": b"3",
        "x/packages/unet.mlpackage/Manifest.json": b"4",
        "x/compiled/SafetyChecker.mlmodelc/model.mil": b"5",
        "x/compiled/VAEEncoder.mlmodelc/weights/weight.bin": b"6",
        "x/compiled/UnetChunk1.mlmodelc/model.mil": b"7",
        "x/compiled/UnetChunk2.mlmodelc/model.mil": b"8",
        "x/compiled/old/again/Unet.mlmodelc/model.mil": b"9",
    }
    wanted = {f"x/compiled/{path}": body for path, body in MODEL.items()}
    kept = unpack(zipped(other | wanted))
    assert kept == MODEL | {"old/again/Unet.mlmodelc/model.mil": b"9"}


def test_chunks_are_kept_where_there_is_no_whole_unet() -> None:
    chunked = {path.replace("Unet.", "UnetChunk1."): body for path, body in MODEL.items()}
    chunked["UnetChunk2.mlmodelc/model.mil"] = b"8"
    assert unpack(zipped(chunked)) == chunked


def test_the_list_has_each_hash() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path, folder = Path(temporary, "x.zip"), Path(temporary, "model")
        path.write_bytes(zipped(MODEL))
        archive.unpack(path, folder, "x.zip", "b" * 64)
        _, parts = archive.contents(folder)
        hashes = {part.path: part.sha256 for part in parts}
        assert hashes["vocab.json"] == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        for damaged in (b"", b"{", b"\xff", b"[]", b'{"archive": "x"}', b'{"archive": "", "files": [{"path": "a"}]}'):
            (folder / archive.LIST).write_bytes(damaged)
            with pytest.raises(ValueError, match="cannot be read"):
                archive.contents(folder)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../up",
        "a/../../up",
        "..",
        "a/./b",
        "a//b",
        "a\\..\\b",
        "C:/a",
        "C:a",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "ä",
        "\u202etxt",
        "a/" * 150 + "b",
        "a" * 300,
        "",
        "/",
        "~/a",
        " a",
        "...",
    ],
)
def test_names_that_could_lead_elsewhere(name: str) -> None:
    refused(zipped(MODEL | {name: b"x"}), "a member is called")
    refused(zipped({f"x/{path}": body for path, body in MODEL.items()} | {name: b"x"}), "a member is called")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR])
def test_links_and_devices(kind: int) -> None:
    refused(
        zipped(MODEL | {"link": b"/etc"}, lambda info: setattr(info, "external_attr", (kind | 0o777) << 16)), "link"
    )


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["vocab.JSON"], "the same file"),
        (["UNET.mlmodelc/x"], "the same file"),
        (["vocab.json/x"], "the same file"),
        (["Unet.mlmodelc"], "the same file"),
        (["safetyChecker.mlmodelc/a", "SafetyChecker.mlmodelc/b"], "the same file"),
    ],
)
def test_two_names_for_one_file(names: list[str], says: str) -> None:
    refused(zipped(MODEL | dict.fromkeys(names, b"x")), says)


def test_the_same_name_twice() -> None:
    refused(zipped(MODEL | {"vocab.jsoX": b"x"}).replace(b"vocab.jsoX", b"vocab.json"), "twice")


@pytest.mark.parametrize("flag", [1, 1 << 6, 1 << 13])
def test_encrypted(flag: int) -> None:
    refused(zipped(MODEL, lambda info: setattr(info, "flag_bits", flag)), "encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 9, 93])
def test_other_compressions(method: int) -> None:
    refused(zipped(MODEL, lambda info: setattr(info, "compress_type", method)), "stored nor deflated")


def test_too_many_files() -> None:
    many = {f"Unet.mlmodelc/{number}": b"" for number in range(archive.MOST_FILES - len(MODEL))}
    assert len(unpack(zipped(MODEL | many))) == archive.MOST_FILES
    refused(zipped(MODEL | many | {"one more": b""}), "1001 members")


def test_bombs() -> None:
    refused(zipped(MODEL | {"Unet.mlmodelc/zeros": bytes(10_000_000)}), "more than 2 times")


def test_lies_about_sizes() -> None:
    last = MODEL | {"Unet.mlmodelc/z": NOISE}
    assert unpack(zipped(last))["Unet.mlmodelc/z"] == NOISE
    refused(zipped(last, lambda info: setattr(info, "file_size", len(NOISE) - 1)))
    refused(zipped(last, lambda info: setattr(info, "file_size", len(NOISE) + 1)), "shorter than the archive says")
    refused(zipped(last, lambda info: setattr(info, "file_size", 1 << 40)), "shorter than the archive says")
    refused(zipped(last, lambda info: setattr(info, "compress_size", 7)))
    refused(zipped(last, lambda info: setattr(info, "CRC", 7)), "CRC")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"flag_bits": 1 << 5}, "patched"),
        ({"compress_type": 0, "compress_size": 1 << 30, "file_size": 1 << 30}, ""),
        ({"header_offset": 1 << 31}, ""),
        ({"header_offset": 1 << 63}, ""),
        ({"header_offset": (1 << 64) - 1}, ""),
        ({"extra": b"\x01\x00\x08\x00abc"}, ""),
        ({"extract_version": 200}, "version"),
    ],
)
def test_other_headers(change: dict[str, Any], says: str) -> None:
    def apply(info: zipfile.ZipInfo) -> None:
        for name, value in change.items():
            setattr(info, name, value)

    refused(zipped(MODEL | {"Unet.mlmodelc/z": b"z"}, apply), says)


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 1000, zipped({"a": b""})[-22:], b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive(content: bytes) -> None:
    refused(content)


@pytest.mark.parametrize(
    "members", [{"readme.txt": b"hello"}, {"Unet.mlmodelc": b"a file"}, {"SafetyChecker.mlmodelc/a": b""}]
)
def test_an_archive_without_a_model(members: dict[str, bytes]) -> None:
    refused(zipped(members), "no Unet.mlmodelc")


def test_every_truncation() -> None:
    whole = zipped({"Unet.mlmodelc/a": NOISE[:50], "vocab.json": b"{}"})
    for end in range(len(whole)):
        refused(whole[:end])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_found(data: st.DataObject) -> None:
    """Whatever bytes are changed: either nothing that matters was, or it is refused in one line."""
    content = bytearray(zipped(MODEL))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        files = unpack(bytes(content))
    except UserError as error:
        assert error.code == os.EX_DATAERR and "\n" not in error.message
    else:
        assert set(files.values()) <= set(MODEL.values()), "content that nobody packed"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["..", ".", "", "a", "A", "/", "\\", "C:", "Unet.mlmodelc", "b\0"]), max_size=5))
)
def test_no_name_leads_out(names: list[list[str]]) -> None:
    members = {"/".join(name): str(name).encode() for name in names}
    try:
        files = unpack(zipped(MODEL | members))
    except UserError as error:
        assert error.code == os.EX_DATAERR
    else:
        assert MODEL.items() <= files.items()


def test_the_end_record_lies() -> None:
    """Offsets that point before the beginning or far behind the end."""
    whole = zipped(MODEL)
    for place, form in ((16, "<L"), (12, "<L")):
        for value in (0, 1, len(whole), len(whole) + 1, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF):
            lying = bytearray(whole)
            struct.pack_into(form, lying, len(whole) - 22 + place, value)
            try:
                assert unpack(bytes(lying)) == MODEL
            except UserError as error:
                assert error.code == os.EX_DATAERR
