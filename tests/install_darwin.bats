#!/usr/bin/env bats
# bats file_tags=slow
# What shortcut_install.sh does on a Mac, from end to end, on stand-ins for the programs of macOS (tests/standin/mac):
# each refuses what the real one refuses and keeps state; the key, the Quick Action and the app work as far as press.sh.
# The environment and the pipe are there or faked. Under the shell in A2I_TEST_BASH (bash by default).

bats_require_minimum_version 1.5.0
load fake_root

setup() {
  make_fake_root "$BATS_TEST_TMPDIR/a copy's \"ümläuts\" & <more>"
  cp "$BATS_TEST_DIRNAME/../shortcut_install.sh" "$root/"
  home="$BATS_TEST_TMPDIR/Jörg & Söhne's \"home\""
  export HOME=$home MAC_STATE=$BATS_TEST_TMPDIR/mac
  mkdir -p "$HOME/Documents" "$MAC_STATE"
  export PATH=$BATS_TEST_DIRNAME/standin/mac:$PATH
  export A2I_PBS=$BATS_TEST_DIRNAME/standin/mac/pbs A2I_PLIST_BUDDY=$BATS_TEST_DIRNAME/standin/mac/PlistBuddy
  unset NONINTERACTIVE
  program "$root/pipeline.sh" 'while [ "$1" != --output ]; do shift; done
printf "\211PNG\r\n\032\n" >"$2/image.png" && printf "%s\n" "$2/image.png"'
  program "$root/helpers/shell/hotkey.sh" 'printf "%s\n" "$0" >>"$MAC_STATE/pressed"'
  app="$HOME/Applications/Audio to Image.app"
  workflow="$HOME/Library/Services/Audio to Image.workflow"
  entry='(null) - Audio to Image - runWorkflowAsService'
}

program() { # <path> <script>
  printf '#!/bin/bash\n%s\n' "$2" >"$1"
  chmod +x "$1"
}

make_environment() { # one that counts as whole
  mkdir -p "$root/.venv/bin" "$root/.venv/lib/python3.11/site-packages/some" && ln -sf "$(command -v python3)" "$root/.venv/bin/python"
  (. "$root/helpers/shell/environment.sh" && environment_stamp) >"$root/.venv/whole"
}

theirs() { # shortcuts of the user's own, of all the types that a property list knows
  python3 - "$HOME" <<'EOF'
import datetime, pathlib, plistlib, sys
services = {
    "com.apple.Terminal - New Terminal at Folder - newTerminalAtFolder": {"key_equivalent": "@$t", "enabled": 1},
    "(null) - Größe \"ändern\" & <mehr> - runWorkflowAsService": {
        "key_equivalent": "@~\u2192", "presentation_modes": {"ContextMenu": False, "ServicesMenu": True}},
    "com.example - Odd - odd": {"data": b"\0\xff", "real": 0.1, "day": datetime.datetime(2020, 1, 2), "list": [1, "a"]},
}
path = pathlib.Path(sys.argv[1], "Library/Preferences/pbs.plist")
path.parent.mkdir(parents=True)
path.write_bytes(plistlib.dumps({"NSServicesStatus": services, "LastVisited": 7}, fmt=plistlib.FMT_BINARY))
EOF
}

shortcuts() { # prints the settings of the services, but for our own entry
  defaults export pbs - | python3 -c "
import plistlib, sys
settings = plistlib.loads(sys.stdin.buffer.read())
if '-a' not in sys.argv: settings.get('NSServicesStatus', {}).pop('$entry', None)
print(settings)" "$@"
}

tree() { # everything in the home directory, with what it holds
  (cd "$HOME" && find . | sort && find . -type f | sort | xargs -d '\n' cksum)
}

install() { "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --no-models "$@" </dev/null; }

darwin() { # <script> <argument…>: with the functions of helpers/install/darwin.sh
  root=$root home=$HOME "${A2I_TEST_BASH:-bash}" -c '. "$root/helpers/install/darwin.sh"
'"$1" darwin "${@:2}"
}

uninstall() { "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --uninstall "$@" </dev/null; }

press_key() { # <key equivalent>: what macOS does then
  local command
  command=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' \
    "$MAC_STATE/services.json" "$1") && sh -c "${command#/usr/bin/}"
}

calls() { # <how the line begins>: the calls of a program, as JSON
  grep -F "[\"$1\"" "$MAC_STATE/calls"
}

@test "installed, the key starts press.sh; a second run changes nothing; uninstalled, all is as it was" {
  theirs
  before=$(tree) settings=$(shortcuts -a)
  run install
  [ "$status" -eq 0 ]
  [[ $output == *'⌃⌥I works in programs that are started from now on'* ]]
  [[ $output == *'skhd         ctrl + alt - i : /usr/bin/open -g -a '* ]]
  [[ $output == *'hs.hotkey.bind({"ctrl", "alt"}, "i"'* ]]
  [ "$(shortcuts)" = "$settings" ]
  press_key '^~i'
  [ "$(cat "$MAC_STATE/pressed")" = "$root/helpers/shell/hotkey.sh" ]
  # Another line here is another signature, and macOS asks for the microphone again.
  [ "$(tail -n 1 "$app/Contents/Resources/press")" = "$(printf "'%s' 6>&1 >/dev/null 2>&1 | cat" "$(sed "s/'/'\\\\''/g" <<<"$root/helpers/press.sh")")" ]
  installed=$(tree)
  : >"$MAC_STATE/calls"
  run install
  [ "$status" -eq 0 ]
  [[ $output == *'everything is in place'* ]]
  [ "$(tree)" = "$installed" ]
  run ! grep -e '"osacompile"' -e '"--force"' -e '"write"' -e '"-flush"' "$MAC_STATE/calls"
  press_key '^~i'
  [ "$(wc -l <"$MAC_STATE/pressed")" -eq 2 ]
  [ "$(wc -l <"$MAC_STATE/questions")" -eq 1 ] # the microphone: once
  run uninstall
  [ "$status" -eq 0 ]
  [ "$(shortcuts -a)" = "$settings" ]
  [ "$(tree)" = "$before" ]
  [ -z "$(ls -A "$MAC_STATE/tcc")" ]
  [ "$(cat "$MAC_STATE/services.json")" = '{}' ]
}

@test "settings that were unset are unset again" {
  run install
  [ "$status" -eq 0 ]
  [ "$(shortcuts)" = "{'NSServicesStatus': {}}" ]
  uninstall
  [ "$(shortcuts -a)" = '{}' ]
}

@test "settings are only ever added to, and imported whole" {
  theirs
  install && uninstall
  [ "$(calls defaults | grep -c '"write"')" -eq 1 ]
  [ "$(calls defaults | grep '"write"' | grep -vcF '"-dict-add"')" -eq 0 ]
  run ! grep '"delete"' "$MAC_STATE/calls"
}

@test "every property list parses, and says what it should" {
  install
  python3 - "$HOME" "$root" <<'EOF'
import pathlib, plistlib, sys
home, root = pathlib.Path(sys.argv[1]), sys.argv[2]
app = plistlib.loads((home / "Applications/Audio to Image.app/Contents/Info.plist").read_bytes())
assert app["CFBundleIdentifier"] == "org.audio-to-image.app" and app["LSUIElement"] is True
assert app["OSAAppletStayOpen"] is True and app["AudioToImageRoot"] == root
assert app["NSMicrophoneUsageDescription"].startswith("You describe the picture")
info = plistlib.loads((home / "Library/Services/Audio to Image.workflow/Contents/Info.plist").read_bytes())
assert "CFBundleIdentifier" not in info and info["AudioToImageRoot"] == root
entry = plistlib.loads((home / "Library/Preferences/pbs.plist").read_bytes())["NSServicesStatus"][
    "(null) - Audio to Image - runWorkflowAsService"]
modes = dict.fromkeys(["ContextMenu", "FinderPreview", "ServicesMenu", "TouchBar"], "1")
assert entry == {"enabled_context_menu": "1", "enabled_services_menu": "1", "key_equivalent": "^~i",
                 "presentation_modes": modes}, entry
EOF
}

@test "a key that another service has is refused, with its name; another one is taken" {
  theirs
  settings=$(shortcuts -a)
  defaults write pbs NSServicesStatus -dict-add '"com.example.app - Fold & go - fold"' '{key_equivalent="~^I";}'
  run install --key ctrl+alt+shift+i # as ~^I means
  [ "$status" -eq 73 ]
  [[ $output == *'⌃⌥⇧I is already the hotkey of another service: Fold & go'$'\n''  choose another one, for example: ./shortcut_install.sh --key '* ]]
  [ ! -e "$workflow" ]
  [[ $(shortcuts -a) != *"$entry"* ]]
  run install --key cmd+alt+ctrl+i
  [ "$status" -eq 0 ]
  press_key '^~@i'
}

@test "another key replaces the first one, and leaves the app alone" {
  install
  press_key '^~i'
  install --key f5
  run ! press_key '^~i'
  press_key $'\xef\x9c\x88' # NSF5FunctionKey
  [ "$(wc -l <"$MAC_STATE/questions")" -eq 1 ]
  rm "$workflow/Contents/document.wflow" # its own key is no other service
  install
  run "$root/shortcut_install.sh" --status
  [[ $output == *"shortcut     F5, the Quick Action $workflow"* ]]
  uninstall
  [ "$(shortcuts -a)" = '{}' ]
}

@test "keys as macOS writes them" {
  cat >"$BATS_TEST_TMPDIR/keys" <<'EOF'
ctrl+alt+i ^~i ⌃⌥I
ctrl+alt+shift+cmd+0 ^~$@0 ⌃⌥⇧⌘0
cmd+space @\x20 ⌘Space
f1 \xef\x9c\x84 F1
shift+f12 $\xef\x9c\x8f ⇧F12
EOF
  run darwin 'while read -r key wanted symbols; do
    found="$(key_equivalent) $(key_symbols "$(key_equivalent)")"
    [ "$found" = "$(printf "%b" "$wanted") $symbols" ] || printf "%s: %s\n" "$key" "$found"
  done <"$1"' "$BATS_TEST_TMPDIR/keys"
  [ "$status" -eq 0 ]
  [ -z "$output" ]
}

@test "an app that is damaged or of an older kind is made anew; a whole one is never signed again" {
  install
  signed() { calls codesign | grep -c '"--force"'; }
  install
  [ "$(signed)" -eq 1 ]
  printf 'x' >>"$app/Contents/Resources/press"
  run "$root/shortcut_install.sh" --status
  [[ $output == *'its signature is broken'* ]]
  install
  [ "$(signed)" -eq 2 ]
  codesign --verify "$app"
  printf -- '-- news\n' >>"$root/helpers/install/hotkey.applescript"
  install
  [ "$(signed)" -eq 3 ]
  install
  [ "$(signed)" -eq 3 ]
}

@test "what somebody else has made under our name stays" {
  mkdir -p "$app/Contents" "$workflow/Contents"
  printf 'theirs' | tee "$app/Contents/theirs" >"$workflow/Contents/theirs"
  before=$(tree)
  run install
  [ "$status" -eq 73 ]
  [[ $output == *"$app exists already, but this installer did not make it"$'\n'"  rename it"* ]]
  [ "$(tree)" = "$before" ]
  rm -rf "$app"
  run install
  [ "$status" -eq 73 ]
  [[ $output == *"$workflow exists already"* ]]
  uninstall
  [ "$(cat "$workflow/Contents/theirs")" = theirs ]
}

@test "another copy of the repository keeps what is its own; one that moved takes it along" {
  install
  mkdir "$BATS_TEST_TMPDIR/second"
  first=$root
  cp -R "$root/." "$BATS_TEST_TMPDIR/second"
  root=$BATS_TEST_TMPDIR/second
  rm -rf "$root/.cache/install"
  make_environment
  run install
  [ "$status" -eq 73 ]
  [[ $output == *"another copy of audio-to-image is installed: $first"$'\n'*"--uninstall"* ]]
  run uninstall
  [ -e "$app" ]
  [ -e "$workflow" ]
  [[ $(shortcuts -a) == *"$entry"* ]]
  rm -rf "$root"
  mv "$first" "$root" # with its journal
  make_environment
  install
  press_key '^~i'
  [ "$(cat "$MAC_STATE/pressed")" = "$root/helpers/shell/hotkey.sh" ]
  uninstall
  [ ! -e "$HOME/Applications" ]
  [ ! -e "$HOME/Library/Services" ]
  [ "$(shortcuts -a)" = '{}' ]
}

@test "a step that fails leaves nothing half-made, and the next run heals it" {
  mkdir "$BATS_TEST_TMPDIR/broken"
  program "$BATS_TEST_TMPDIR/broken/codesign" 'echo "codesign: internal error" >&2; exit 1'
  PATH=$BATS_TEST_TMPDIR/broken:$PATH run install
  [ "$status" -eq 69 ]
  [[ $output == *'the app could not be made'* ]]
  [[ $output == *'shortcut: skipped, it needs app'* ]]
  [ ! -e "$HOME/Applications" ]
  [ ! -e "$workflow" ]
  run install
  [ "$status" -eq 0 ]
  press_key '^~i'
}

deadly() { # <program>: kills who calls it to change something
  program "$BATS_TEST_TMPDIR/deadly/$1" "case \"\$*\" in export* | --verify*) ;; *) kill -9 \$PPID ;; esac
PATH=${PATH#*/deadly:} exec $1 \"\$@\""
}

@test "killed at any of the calls that change something, the next run ends installed, and uninstalls clean" {
  theirs
  before=$(tree)
  mkdir "$BATS_TEST_TMPDIR/deadly"
  for tool in osacompile plutil xattr codesign defaults pbs; do
    deadly "$tool"
    PATH=$BATS_TEST_TMPDIR/deadly:$PATH A2I_PBS=pbs run install
    [ "$status" -ne 0 ]
    rm "$BATS_TEST_TMPDIR/deadly/$tool"
    run install
    [ "$status" -eq 0 ]
    press_key '^~i'
    deadly "$tool"
    PATH=$BATS_TEST_TMPDIR/deadly:$PATH A2I_PBS=pbs run uninstall
    rm "$BATS_TEST_TMPDIR/deadly/$tool"
    run uninstall
    [ "$status" -eq 0 ]
    [ "$(tree)" = "$before" ]
    [ "$(cat "$MAC_STATE/services.json")" = '{}' ]
    make_environment
  done
}

@test "what a cut left without its Info.plist is ours: made whole, or taken away" {
  install
  rm "$app/Contents/Info.plist" "$workflow/Contents/Info.plist"
  run install
  [ "$status" -eq 0 ]
  press_key '^~i'
  rm "$app/Contents/Info.plist" "$workflow/Contents/Info.plist"
  run uninstall
  [ "$status" -eq 0 ]
  [ ! -e "$HOME/Applications" ]
  [ ! -e "$HOME/Library/Services" ]
}

@test "--dry-run changes nothing, and shows each step" {
  theirs
  before=$(tree)
  rm -rf "$root/.venv"
  run install --dry-run
  [ "$status" -eq 0 ]
  [[ $output == *"make $app with osacompile"* ]]
  [[ $output == *'defaults write pbs NSServicesStatus -dict-add'* ]]
  [ "$(tree)" = "$before" ]
  [ ! -e "$root/.cache/install" ]
  run ! grep -e '"write"' -e '"import"' -e '"-flush"' -e '"osacompile"' "$MAC_STATE/calls"
  make_environment
  install
  before=$(tree)
  run uninstall --dry-run
  [ "$status" -eq 0 ]
  [[ $output == *"remove $entry from the NSServicesStatus of pbs"* ]]
  [ "$(tree)" = "$before" ]
}

@test "a Mac on which it cannot work is told so before anything is done" {
  before=$(tree)
  MAC_VERSION=13.6 run install
  [ "$status" -eq 69 ]
  [[ $output == *'macOS 13.6 is too old'* ]]
  MAC_ROSETTA=1 run install
  [ "$status" -eq 69 ]
  [[ $output == *'  arch -arm64 ./shortcut_install.sh'* ]]
  rm -rf "$root/.venv"
  MAC_FREE_KB=1500000 run install
  [ "$status" -eq 69 ]
  [[ $output == *'the disk has only 1 GB of free space'* ]]
  [ "$(tree)" = "$before" ]
  [ ! -e "$root/.venv" ]
}

@test "an Intel Mac works, and is told what to expect" {
  MAC_CHIP='Intel(R) Core(TM) i7' run install
  [ "$status" -eq 0 ]
  MAC_CHIP='Intel(R) Core(TM) i7' run "$root/shortcut_install.sh" --status
  [[ $output == *'Intel(R) Core(TM) i7 has no Neural Engine'* ]]
  [[ $output == *"app          $app, signed"* ]]
}

@test "folders of any name survive the shell, XML and the property list" {
  mkdir "$BATS_TEST_TMPDIR/many"
  python3 - "$BATS_TEST_TMPDIR/many" "$root/helpers" >"$BATS_TEST_TMPDIR/list" <<'EOF'
import os, pathlib, random, sys
many, helpers = sys.argv[1:]
letters = [*" '\"&<>$`\\(){}[];|%#!*?~=+,@^-.abAZ09äöüßé漢🍔", "COMMAND", "'\\''", "$(id)", "&amp;", "\\n"]
random.seed(7)
for number in range(200):
    name = f"{number}" + "".join(random.choices(letters, k=random.randint(1, 24)))
    (pathlib.Path(many) / name).mkdir()
    os.symlink(helpers, pathlib.Path(many) / name / "helpers")
    print(pathlib.Path(many) / name)
EOF
  darwin 'while IFS= read -r root; do
    app=$root/Applications/$app_name.app
    app_launcher >"$root/press"
    workflow_info >"$root/info"
    workflow_document >"$root/document"
  done <"$1"' "$BATS_TEST_TMPDIR/list"
  python3 - "$BATS_TEST_TMPDIR/list" <<'EOF'
import pathlib, plistlib, subprocess, sys
for name in pathlib.Path(sys.argv[1]).read_text().splitlines():
    root = pathlib.Path(name)
    assert plistlib.loads((root / "info").read_bytes())["AudioToImageRoot"] == name
    (step,) = plistlib.loads((root / "document").read_bytes())["actions"]
    command = step["action"]["ActionParameters"]["COMMAND_STRING"]
    said = subprocess.check_output(["sh", "-c", "printf '%s\\0' " + command])
    assert said.decode() == f"/usr/bin/open\0-g\0-a\0{name}/Applications/Audio to Image.app\0", said
    subprocess.run(["bash", root / "press"], check=True)
EOF
  cmp <(sed 's:$:/helpers/shell/hotkey.sh:' "$BATS_TEST_TMPDIR/list") "$MAC_STATE/pressed"
}

@test "the launcher ends with the last program that a press has started" {
  program "$root/helpers/shell/hotkey.sh" '(sleep 1.5; echo done >"$MAC_STATE/done") </dev/null >/dev/null 2>&1 &'
  darwin app_launcher >"$BATS_TEST_TMPDIR/press"
  bash "$BATS_TEST_TMPDIR/press"
  [ -e "$MAC_STATE/done" ]
}

@test "what was said reaches a notification as an argument" {
  . "$root/helpers/shell/platform/darwin.sh"
  notify '-e "title"' '"; do shell script "touch hacked" -- ünï'
  [ "$(cat "$MAC_STATE/notifications")" = '["-e \"title\"", "\"; do shell script \"touch hacked\" -- ünï"]' ]
  play_sound start && play_sound stop && wait
  [ "$(calls afplay | wc -l)" -eq 2 ]
}
