#!/usr/bin/env -S python3 -S -E
"""Stand-ins for the programs of macOS that the installer calls; each is a link to this file and goes by its name.

They keep their state in $MAC_STATE, refuse what the real ones refuse, and note every call in $MAC_STATE/calls. They
rest on the manual pages of macOS 14 and on what the workflows that Automator saves look like.
"""

from __future__ import annotations

import getopt
import hashlib
import json
import os
import plistlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plists import argument_value, printed, refuse

STATE = Path(os.environ["MAC_STATE"])
HOME = Path(os.environ["HOME"])
MACH_O = bytes.fromhex("cafebabe00000002")  # a universal binary: Intel and Apple Silicon


# ---- property lists


def domain_read(domain: str) -> dict[str, Any]:
    """What cfprefsd has in memory: the file is read once; what others write into it later is not seen."""
    for path in (STATE / f"{domain}.plist", HOME / f"Library/Preferences/{domain}.plist"):
        if path.exists():
            return dict(plistlib.loads(path.read_bytes()))
    return {}


def domain_write(domain: str, settings: dict[str, Any]) -> None:
    file = HOME / f"Library/Preferences/{domain}.plist"
    file.parent.mkdir(parents=True, exist_ok=True)
    for path in (STATE / f"{domain}.plist", file):
        path.write_bytes(plistlib.dumps(settings, fmt=plistlib.FMT_BINARY))


def defaults(arguments: list[str]) -> None:
    match arguments:
        case ["export", domain, "-"]:
            sys.stdout.buffer.write(plistlib.dumps(domain_read(domain)))
        case ["export", domain, path]:
            Path(path).write_bytes(plistlib.dumps(domain_read(domain)))
        case ["import", domain, path]:
            domain_write(domain, {**domain_read(domain), **plistlib.loads(Path(path).read_bytes())})
        case ["write", domain, key, "-dict-add", *pairs] if pairs and len(pairs) % 2 == 0:
            settings = domain_read(domain)
            entries = settings.setdefault(key, {})
            for name, value in zip(pairs[::2], pairs[1::2], strict=True):
                entry = argument_value(name)
                if not isinstance(entry, str):
                    refuse(f"Could not parse: {name}.  Try single-quoting it.")
                entries[entry] = argument_value(value)
            domain_write(domain, settings)
        case ["write", domain, key, value] if not value.startswith("-"):
            domain_write(domain, {**domain_read(domain), key: argument_value(value)})  # not merged
        case ["delete", domain, key]:
            settings = domain_read(domain)
            if key not in settings:
                refuse(f"Domain ({domain}) not found.\nDefaults have not been changed.")
            del settings[key]
            domain_write(domain, settings)
        case _:
            refuse("Command line interface to a user's defaults.", 255)


def plist_buddy(arguments: list[str]) -> None:
    match arguments:
        case ["-c", command, file]:
            pass
        case _:
            refuse("Usage: PlistBuddy [-cxh] <file.plist>")
    if not Path(file).exists():
        print(f"File Doesn't Exist, Will Create: {file}")
        refuse("Print: Entry, Does Not Exist")
    try:
        plist = plistlib.loads(Path(file).read_bytes())
    except Exception:
        refuse(f"Error Reading File: {file}")
    verb, _, path = command.partition(" ")
    if path.count('"') % 2 or (" " in re.sub('"[^"]*"', "", path)):
        refuse("Unrecognized Command")
    *parents, last = [part.strip('"') for part in path.lstrip(":").split(":")]
    at = plist
    try:
        for part in parents:
            at = at[int(part) if isinstance(at, list) else part]
        found = at[int(last) if isinstance(at, list) else last]
    except (KeyError, IndexError, ValueError, TypeError):
        refuse(f'{verb}: Entry, "{path}", Does Not Exist')
    if verb == "Print":
        print(printed(found))
    elif verb == "Delete":
        del at[last]
        Path(file).write_bytes(plistlib.dumps(plist))
    else:
        refuse("Unrecognized Command")


def plutil(arguments: list[str]) -> None:
    match arguments:
        case ["-replace", key, "-string", value, file]:
            typed: Any = value
        case ["-replace", key, "-bool", ("YES" | "NO" | "true" | "false") as value, file]:
            typed = value in ("YES", "true")
        case _:
            refuse("plutil: unrecognized option")
    plist = plistlib.loads(Path(file).read_bytes())
    if "." in key:
        refuse("a dot parts the keys of a path")
    plist[key] = typed
    Path(file).write_bytes(plistlib.dumps(plist))


# ---- apps


def check_applescript(source: bytes) -> None:
    """Refuses what no AppleScript can be: blocks that do not end, quotes that do not close, other than ASCII."""
    blocks: list[str] = []
    for number, raw in enumerate(source.decode("ascii").splitlines(), 1):
        code = re.sub(r'"(?:[^"\\]|\\.)*"', '""', raw)
        line = code.split("--")[0].strip()
        opening = re.match(r"(?:on|repeat|try|tell|if)\b(?! error)", line)
        if line.count('"') % 2:
            refuse(f'line {number}: error: Expected “"” but found end of script. (-2741)')
        if line.startswith("end"):
            if not blocks or line.removeprefix("end").strip() not in ("", blocks.pop()):
                refuse(f"line {number}: error: Expected end of line but found “end”. (-2741)")
        elif opening and not re.match(r"(tell .* to .*|if .* then .+)$", line):
            blocks.append(re.sub(r"^on ", "", line).split("(")[0].split()[0])
        elif line and not opening and not re.match(r"(property|set|return|do|tell|if|else|display|[a-z]+\(\))", line):
            refuse(f"line {number}: error: A identifier can’t go after this identifier. (-2740)")
    if blocks:
        refuse("error: Expected “end” but found end of script. (-2741)")


def osacompile(arguments: list[str]) -> None:
    match arguments:
        case ["-s", "-o", name, file] if name.endswith(".app"):
            pass
        case _:
            refuse("usage: osacompile [-l language] [-e command] [-o name] [-sx] [file ...]", 2)
    source = Path(file).read_bytes()
    check_applescript(source)
    contents = Path(name) / "Contents"
    (contents / "Resources/Scripts").mkdir(parents=True)
    (contents / "MacOS").mkdir()
    (contents / "MacOS/applet").write_bytes(MACH_O + b" the stub of an applet")
    (contents / "MacOS/applet").chmod(0o755)
    (contents / "PkgInfo").write_text("APPLaplt")
    (contents / "Resources/Scripts/main.scpt").write_bytes(b"FasdUAS 1.101.10" + source)
    info = {
        "CFBundleExecutable": "applet",
        "CFBundleName": Path(name).stem,
        "CFBundlePackageType": "APPL",
        "NSMicrophoneUsageDescription": "This script needs access to your microphone to run.",
        "OSAAppletStayOpen": True,
    }
    (contents / "Info.plist").write_bytes(plistlib.dumps(info))
    (contents / ".FinderInfo").touch()  # stands for the extended attribute


def seal(app: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(app.rglob("*")):
        if path.is_file() and "_CodeSignature" not in path.parts:
            digest.update(f"{path.relative_to(app)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def signature(app: Path) -> str | None:
    """The hash that the app's signature stands for, or None where it is not valid."""
    file = app / "Contents/_CodeSignature/CodeResources"
    return file.read_text() if file.exists() and file.read_text() == seal(app) else None


def codesign(arguments: list[str]) -> None:
    match arguments:
        case ["--force", "--sign", "-", path] | ["--verify", path]:
            app = Path(path)
        case _:
            refuse("Usage: codesign -s identity [-fv*] [-o flags] [-r reqs] [-i ident] path ...", 2)
    if not app.is_dir():
        refuse(f"{path}: No such file or directory")
    if arguments[0] == "--verify":
        if signature(app) is None:
            refuse(f"{path}: a sealed resource is missing or invalid")
        return
    if (app / "Contents/.FinderInfo").exists():
        refuse(f"{path}: resource fork, Finder information, or similar detritus not allowed")
    info = plistlib.loads((app / "Contents/Info.plist").read_bytes())
    if not (app / "Contents/MacOS" / info["CFBundleExecutable"]).read_bytes().startswith(MACH_O):
        refuse(f"{path}: bundle format unrecognized, invalid, or unsuitable")
    (app / "Contents/_CodeSignature").mkdir(exist_ok=True)
    (app / "Contents/_CodeSignature/CodeResources").write_text(seal(app))


def xattr(arguments: list[str]) -> None:
    match arguments:
        case ["-cr", path]:
            (Path(path) / "Contents/.FinderInfo").unlink(missing_ok=True)
        case _:
            refuse("usage: xattr [-l] [-r] [-s] [-v] [-x] file [file ...]", 64)


def installed_app(identifier: str) -> Path | None:
    for info in HOME.glob("Applications/*.app/Contents/Info.plist"):
        if plistlib.loads(info.read_bytes()).get("CFBundleIdentifier") == identifier:
            return info.parents[1]
    return None


def tccutil(arguments: list[str]) -> None:
    match arguments:
        case ["reset", "Microphone", identifier]:
            if not installed_app(identifier):
                refuse(f'tccutil: No such bundle identifier "{identifier}"', 70)
            (STATE / "tcc" / identifier).unlink(missing_ok=True)
        case _:
            refuse("tccutil: Usage: tccutil reset SERVICE [BUNDLE_ID]", 64)


def open_(arguments: list[str]) -> None:
    """Starts our applet as LaunchServices does: few variables, its signature checked, the microphone asked for once."""
    match arguments:
        case ["-g", "-a", path]:
            app = Path(path)
        case _:
            refuse(
                "Usage: open [-e] [-t] [-f] [-W] [-R] [-n] [-g] [-h] [-s <partial SDK name>][-b <bundle id>] [-a <app>]"
            )
    if not app.is_dir():
        refuse(f"Unable to find application named '{path}'")
    info = plistlib.loads((app / "Contents/Info.plist").read_bytes())
    code = signature(app)
    if code is None or not info["LSUIElement"]:
        refuse(f"The application cannot be opened: {path}")
    grant = STATE / "tcc" / info["CFBundleIdentifier"]
    if not grant.exists() or grant.read_text() != code:  # another signature: the grant counts no more
        grant.parent.mkdir(exist_ok=True)
        grant.write_text(code)
        with (STATE / "questions").open("a") as questions:
            print(info["NSMicrophoneUsageDescription"], file=questions)
    bare = {"HOME": str(HOME), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "MAC_STATE": str(STATE)}
    subprocess.run([app / "Contents/Resources/press"], env=bare, stdin=subprocess.DEVNULL, check=False)


def pbs(arguments: list[str]) -> None:
    """Notes which key runs which command: of the workflows in ~/Library/Services, by the settings of the domain pbs."""
    if arguments not in (["-flush"], ["-update"]):
        refuse("usage: pbs [-flush] [-update] [-read_bundle]", 64)
    if arguments == ["-flush"]:
        (STATE / "services.json").unlink(missing_ok=True)
        return
    status = domain_read("pbs").get("NSServicesStatus", {})
    commands = {}
    for workflow in HOME.glob("Library/Services/*.workflow"):
        info = plistlib.loads((workflow / "Contents/Info.plist").read_bytes())
        document = plistlib.loads((workflow / "Contents/document.wflow").read_bytes())
        meta = document["workflowMetaData"]
        assert meta["workflowTypeIdentifier"] == "com.apple.Automator.servicesMenu"
        assert meta["serviceInputTypeIdentifier"] == "com.apple.Automator.nothing"
        (service,) = info["NSServices"]
        assert service["NSMessage"] == "runWorkflowAsService" and service["NSSendTypes"] == []
        (step,) = document["actions"]
        parameters = step["action"]["ActionParameters"]
        assert step["action"]["BundleIdentifier"] == "com.apple.RunShellScript" and parameters["shell"] == "/bin/sh"
        owner = info.get("CFBundleIdentifier", "(null)")
        entry = status.get(f"{owner} - {service['NSMenuItem']['default']} - runWorkflowAsService", {})
        if "key_equivalent" in entry and entry.get("presentation_modes", {}).get("ServicesMenu") == "1":
            commands[entry["key_equivalent"]] = parameters["COMMAND_STRING"]
    (STATE / "services.json").write_text(json.dumps(commands))


# ---- the system


def sysctl(arguments: list[str]) -> None:
    values = {"machdep.cpu.brand_string": os.environ.get("MAC_CHIP", "Apple M2"), "hw.memsize": str(16 << 30)}
    if os.environ.get("MAC_CHIP", "Apple").startswith("Apple"):
        values["sysctl.proc_translated"] = os.environ.get("MAC_ROSETTA", "0")
    match arguments:
        case ["-n", name] if name in values:
            print(values[name])
        case ["-n", name]:
            refuse(f"sysctl: unknown oid '{name}'")
        case _:
            refuse("usage: sysctl [-bdehiNnoqx] name[=value] ...")


def sw_vers(arguments: list[str]) -> None:
    if arguments != ["-productVersion"]:
        refuse("usage: sw_vers [--help|--productName|--productVersion|...]")
    print(os.environ.get("MAC_VERSION", "14.5"))


def df(arguments: list[str]) -> None:
    match arguments:
        case ["-Pk", path] if Path(path).exists():
            print("Filesystem 1024-blocks Used Available Capacity Mounted on")
            print(f"/dev/disk3s5 482797652 1 {os.environ.get('MAC_FREE_KB', '99999999')} 1% /System/Volumes/Data")
        case _:
            refuse("usage: df [-b | -g | -H | -h | -k | -m | -P] [-ailn] [-T type] [file | filesystem ...]", 64)


def uname(arguments: list[str]) -> None:
    match arguments:
        case [] | ["-s"]:
            print("Darwin")
        case ["-m"]:
            print("arm64")
        case _:
            refuse("usage: uname [-amnoprsv]")


def brew(arguments: list[str]) -> None:
    cellar = STATE / "Cellar"
    cellar.mkdir(exist_ok=True)
    match arguments:
        case ["list", "--formula", "-1"]:
            print("\n".join(path.name for path in cellar.iterdir()))
        case ["install", *names]:
            for name in names:
                (cellar / name).mkdir(exist_ok=True)
        case ["uninstall", *names]:
            for name in names:
                if not (cellar / name).exists():
                    refuse(f"Error: No such keg: /opt/homebrew/Cellar/{name}")
                shutil.rmtree(cellar / name)
        case _:
            refuse(f"Error: Unknown command: {arguments}")


def osascript(arguments: list[str]) -> None:
    """Only a script that takes what it shows as an argument; what was shown is noted."""
    try:
        options, arguments = getopt.getopt(arguments, "e:")
    except getopt.GetoptError:
        options = []
    script = [value for _, value in options]
    if not script:
        refuse("usage: osascript [-l language] [-e script] [-i] [-s {ehso}] [programfile] [argument ...]", 2)
    check_applescript("\n".join(script).encode())
    with (STATE / "notifications").open("a") as file:
        print(json.dumps(arguments, ensure_ascii=False), file=file)


def afplay(arguments: list[str]) -> None:
    sounds = "Basso|Blow|Bottle|Frog|Funk|Glass|Hero|Morse|Ping|Pop|Purr|Sosumi|Submarine|Tink"
    if len(arguments) != 1 or not re.fullmatch(rf"/System/Library/Sounds/({sounds})\.aiff", arguments[0]):
        refuse(f"Error: AudioFileOpen failed ({arguments})")


TOOLS: dict[str, Callable[[list[str]], None]] = {
    "PlistBuddy": plist_buddy,
    "open": open_,
    **{tool.__name__: tool for tool in (afplay, brew, codesign, defaults, df, osacompile, osascript, pbs, plutil)},
    **{tool.__name__: tool for tool in (sw_vers, sysctl, tccutil, uname, xattr)},
}

if __name__ == "__main__":
    with (STATE / "calls").open("a") as calls:
        print(json.dumps([Path(sys.argv[0]).name, *sys.argv[1:]], ensure_ascii=False), file=calls)
    TOOLS[Path(sys.argv[0]).name](sys.argv[1:])
