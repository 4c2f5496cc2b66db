"""What is said of this machine, and of whom it is."""

from __future__ import annotations

import getpass
import os
import socket
import sys

import pytest

from helpers.core import system
from helpers.core.paths import ROOT


def test_memory_of_this_machine_and_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "linux":
        total, free = system.memory()
        assert 100 << 20 < free < total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    pages = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:   100.\nPages active:  5.\n"
    monkeypatch.setattr(system, "said", lambda *command: f"{pages}Pages inactive:    20.\n")
    mac = system.Machine("Apple M1", 8 << 30, "24G90")
    monkeypatch.setattr(system, "machine", lambda: mac)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert system.memory() == (8 << 30, 120 * 16384)
    assert ", Apple M1, " in system.system()


def test_nothing_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/annabel")
    monkeypatch.setattr(getpass, "getuser", lambda: "annabel")
    monkeypatch.setattr(socket, "gethostname", lambda: "annas-book.local")
    said = {
        "Anna’s AirPods Pro: -20 dBFS": "AirPods Pro: -20 dBFS",
        "Annabel Yeti at /home/annabel/Music": "… Yeti at ~/Music",
        "/Volumes/annabel/outputs on annas-book, annas-book.local": "/Volumes/…/outputs on …, …",
        f"{ROOT}/outputs": "outputs",
        "annabella's": "annabella's",
    }
    for text, shown in said.items():
        assert system.private(text) == shown
