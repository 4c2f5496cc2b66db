"""The catalogue names every model once, completely, and says whether it is here."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.catalog import archive, catalog
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.draw import engines

MINIMAL: dict[str, Any] = {
    "defaults": dict.fromkeys(catalog.ROLES, "one"),
    "sources": {"here": [{"repo": "owner/repo", "revision": "a" * 40}]},
    "models": {
        "one": {
            "kind": "whisper",
            "about": "a model",
            "license": "MIT",
            "memory_mb": 1,
            "languages": "en",
            "source": "here",
            "files": [{"path": "one.bin", "bytes": 3, "sha256": "b" * 64}],
        }
    },
}


STEMS = ("model", "diffusion_pytorch_model")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("entry", catalog.read().entries.values(), ids=lambda entry: entry.name)
def test_entry_is_complete(entry: catalog.Entry) -> None:
    assert entry.about and entry.license and entry.memory_mb > 0 and bool(entry.engines) == (entry.kind == "image")
    if entry.shipped:
        assert entry.folder.is_relative_to(ROOT) and entry.is_present()
        return
    assert entry.sources and entry.files
    for source in entry.sources:
        assert re.fullmatch("([0-9a-f]{40})?", source.revision)
    assert all(re.fullmatch("([0-9a-f]{64})?", file.sha256) for file in entry.files)
    if len(entry.files) == 1:
        assert entry.files[0].sha256 or entry.files[0].exact, "neither the hash nor the size is known"
    if entry.kind in catalog.SPEECH:
        if entry.kind == "whisper":
            assert entry.path.name == f"ggml-{entry.name}.bin"
        assert entry.languages == ("en" if ".en" in entry.name else "any")
        assert not (entry.translates and (entry.languages == "en" or "turbo" in entry.name))


def test_no_weights_stand_twice() -> None:
    files = [file for entry in catalog.read().entries.values() for file in entry.files]
    hashes = [file.sha256 for file in files if file.sha256 and file.bytes > 10_000_000]
    assert len(hashes) == len(set(hashes))


def test_defaults_fit_their_roles() -> None:
    assert catalog.read().default("english").name == "base.en-q5_1"
    multilingual = catalog.read().default("multilingual")
    assert multilingual.name == "base-q5_1" and multilingual.translates
    for machine in ("faster-whisper", "nvidia"):
        for language, translate in (("en", False), ("de", False), ("de", True), ("en", True)):
            model = catalog.read().speech(language, translate, machine)
            assert model.kind == "faster-whisper" and (model.translates or not translate)
            assert model.languages == "any" or (language, translate) == ("en", False)
    for engine in engines.ENGINES:
        model = catalog.read().default(engines.role(engine))
        assert model.kind == "image" and (engines.ENGINES[engine].models or engine) in model.engines
    assert catalog.read().default("builtin").shipped
    processor = catalog.read().default("openvino")
    assert processor.draws["steps"] == 1 and not processor.limit  # seconds a picture, and a free licence
    assert catalog.read().default("coreml-gpu").engines == ("coreml",)
    assert "split_einsum" in catalog.read().default("coreml").files[0].path, (
        "the Neural Engine computes no other attention"
    )
    assert "original" in catalog.read().default("coreml-gpu").files[0].path


def test_the_detector_of_safe_is_no_model_that_draws() -> None:
    detector = catalog.read().default("filter")
    assert detector.kind == "filter" and {file.path.split("/")[0] for file in detector.files} == {"safety_checker"}


def test_a_diffusers_folder_has_each_part_that_is_drawn_with() -> None:
    for entry in catalog.read().entries.values():
        if "torch" not in entry.engines:
            continue
        paths = {file.path for file in entry.files}
        parts = ["text_encoder", *(["text_encoder_2"] if "xl" in entry.name else []), "unet", "vae"]
        for part in parts:
            weights = {f"{part}/{stem}{kind}.safetensors" for stem in STEMS for kind in ("", ".fp16")}
            assert f"{part}/config.json" in paths and weights & paths
        for part in parts:
            if part.startswith("text"):
                folder = part.replace("text_encoder", "tokenizer")
                assert {f"{folder}/vocab.json", f"{folder}/merges.txt"} <= paths
        assert {"model_index.json", "scheduler/scheduler_config.json"} <= paths


def test_what_is_not_pinned_is_named() -> None:
    file = catalog.File("a", 1, True, "")
    entry = catalog.read().find("tiny.en-q5_1")
    assert entry.unpinned() == "" and catalog.read().find("builtin").unpinned() == ""
    assert entry._replace(files=(*entry.files, file, file._replace(path="b"))).unpinned() == "a, b"
    assert (
        entry._replace(files=(file, file)).unpinned() == "all 2 files"
        and entry._replace(files=(file,)).unpinned() == "a"
    )


def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(UserError) as error:
        catalog.read().find("base.en-q5")
    assert error.value.code == os.EX_USAGE
    assert "base.en-q5_1" in error.value.remedy


def test_unknown_name_is_printed_safely() -> None:
    with pytest.raises(UserError) as error:
        catalog.read().find("\x1b[2Jxyz" + "w" * 1000)
    assert "\x1b" not in error.value.message and len(error.value.message) < 200


def test_present_only_with_the_right_size(models: Path) -> None:
    entry = catalog.read(models).find("tiny.en-q5_1")
    assert entry.path == models / "tiny.en-q5_1" / "ggml-tiny.en-q5_1.bin"
    assert entry.problem() == "missing"
    with pytest.raises(UserError, match="not on this machine") as error:
        catalog.read(models).require(entry.name)
    assert error.value.code == os.EX_UNAVAILABLE and "./download_model.py tiny.en-q5_1" in error.value.remedy
    entry.folder.mkdir()
    entry.path.write_bytes(b"short")
    assert not entry.is_present()
    with pytest.raises(UserError, match="damaged"):
        catalog.read(models).require(entry.name)
    with entry.path.open("wb") as file:
        file.truncate(entry.bytes)
    assert catalog.read(models).require(entry.name) == entry


def test_a_rounded_size_asks_only_for_content(models: Path) -> None:
    data = copy.deepcopy(MINIMAL)
    data["models"]["one"]["files"] = [{"path": "one.bin", "about_bytes": 3000, "sha256": "b" * 64}]
    entry = catalog.parse(data, models).entries["one"]
    entry.folder.mkdir()
    entry.path.touch()
    assert not entry.is_present()
    entry.path.write_bytes(b"x")
    assert entry.is_present()


def test_a_model_in_an_archive_is_what_the_archive_held(models: Path) -> None:
    entry = catalog.read(models).default("coreml")
    assert entry.is_archive and entry.path == entry.folder and entry.problem() == "missing"
    (entry.folder / "Unet.mlmodelc").mkdir(parents=True)
    (entry.folder / entry.files[0].path).touch()
    assert entry.problem() == "missing", "the archive itself is of no use to a program"
    part = archive.Part("Unet.mlmodelc/model.mil", 3, "c" * 64)

    def listed(sha256: str) -> None:
        text = json.dumps({"archive": sha256, "files": [part._asdict()]})
        (entry.folder / archive.LIST).write_text(text, encoding="utf-8")

    listed(entry.files[0].sha256)
    assert entry.problem() == "missing"
    (entry.folder / part.path).write_bytes(b"abc")
    assert entry.is_present()
    assert entry.contents() == (catalog.File(part.path, 3, True, "c" * 64),)
    (entry.folder / part.path).write_bytes(b"ab")
    assert entry.problem() == "damaged: Unet.mlmodelc/model.mil should have 3 bytes"
    (entry.folder / part.path).write_bytes(b"abc")
    listed("d" * 64)
    assert entry.problem() == "damaged: it comes from an older archive than the catalogue pins"
    assert entry._replace(files=(entry.files[0]._replace(sha256=""),)).is_present(), "nothing is pinned"
    (entry.folder / archive.LIST).write_text("{")
    assert entry.problem() == "damaged: .archive.json cannot be read"


def test_a_model_of_several_files_is_a_folder(models: Path) -> None:
    entry = catalog.read(models).find("stable-diffusion-2-1-base")
    assert entry.path == entry.folder == models / "stable-diffusion-2-1-base"
    for file in entry.files[1:]:
        (entry.folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        with (entry.folder / file.path).open("wb") as handle:
            handle.truncate(file.bytes)
    assert entry.problem() == "missing"


def test_minimal_catalogue_is_accepted() -> None:
    assert catalog.parse(MINIMAL).entries["one"].files == (catalog.File("one.bin", 3, True, "b" * 64),)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("kind", "video", "kind"),
        ("about", "", "about"),
        ("license", None, "license"),
        ("memory_mb", "1", "memory_mb"),
        ("engines", ["openvino"], "engines"),
        ("languages", "de", "languages"),
        ("source", "nowhere", "source"),
        ("files", [], "folder"),
        ("folder", "models/x", "folder"),
        ("licence", "MIT", "unknown key licence"),
        ("files", [{"path": "../x", "bytes": 3, "sha256": "b" * 64}], "not a path"),
        ("files", [{"path": "/x", "bytes": 3, "sha256": "b" * 64}], "not a path"),
        ("files", [{"path": "a/.x", "bytes": 3, "sha256": "b" * 64}], "not a path"),
        ("files", [{"path": "x", "bytes": 0, "sha256": "b" * 64}], "bytes"),
        ("files", [{"path": "x", "bytes": 3, "sha256": "b" * 63}], "sha256"),
        ("files", [{"path": "x", "bytes": 3}], "sha256"),
        ("files", [{"path": name, "bytes": 3, "sha256": "b" * 64} for name in ("x", "y.zip")], "the only file"),
    ],
)
def test_bad_entry_is_named(key: str, value: object, says: str) -> None:
    data = copy.deepcopy(MINIMAL)
    data["models"]["one"][key] = value
    with pytest.raises(ValueError, match=rf"\[models.one\].*{says}"):
        catalog.parse(data)


def test_bad_source_name_and_default_are_named() -> None:
    changes: list[tuple[Callable[[dict[str, Any]], object], str]] = [
        (lambda data: data["sources"]["here"][0].update(revision="main"), "full commit hash"),
        (lambda data: data["sources"]["here"][0].update(repo="../x/y"), "not a repository"),
        (lambda data: data["models"].update({"../x": data["models"]["one"]}), "a name is made of"),
        (lambda data: data["defaults"].update(english="two"), "english = 'two'"),
        (lambda data: data["defaults"].pop("filter"), "filter = None"),
    ]
    for change, says in changes:
        data = copy.deepcopy(MINIMAL)
        change(data)
        with pytest.raises(ValueError, match=says):
            catalog.parse(data)


def test_broken_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "catalog.toml"
    broken.write_text("[models\n")
    monkeypatch.setattr(catalog, "CATALOG", broken)
    with pytest.raises(UserError) as error:
        catalog.read()
    assert error.value.code == os.EX_DATAERR and "catalog.toml" in error.value.message


def test_the_table_has_every_model() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "helpers.catalog.catalog"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == catalog.markdown_table() + "\n"
    rows = printed.stdout.splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(catalog.read().entries)


def test_import_is_light() -> None:
    code = "import sys, helpers.catalog.catalog as c; c.read().find('builtin'); print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "huggingface_hub", "httpx2", "tqdm", "subprocess", "zipfile"}
    assert not heavy & set(printed.stdout.split())
