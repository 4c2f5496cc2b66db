#!/usr/bin/env bats
# What the key runs: the real pipeline.sh with small programs as stages, and stand-ins for what shows and sounds.

bats_require_minimum_version 1.5.0
load fake_root

setup() {
  make_fake_root "$BATS_TEST_TMPDIR/it's \"mine\" & ümläut"
  touch "$root/.cache/speech-model-offered"
  stages=$BATS_TEST_TMPDIR/stages noted=$BATS_TEST_TMPDIR/noted
  mkdir "$stages"
  touch "$noted"
  fake record 'event ready; trap "event heard; exit 0" INT; touch up; for _ in {1..100}; do [ ! -e go ] || break; sleep 0.1; done
    event heard'
  fake transcribe 'cat >/dev/null; heard "a <b>burger</b> & \\\"more\\\" \$(touch run)"; echo "a burger"'
  fake remove_parentheses 'exec cat'
  fake generate 'while IFS= read -r line; do echo png >"$line.png"; printf "%s\n" "$PWD/$line.png"; done'
  fake notify-send 'strict_notification "$@"'
  fake paplay 'printf "sound %s\n" "${1##*/}" >>"$noted"'
  fake xdg-open 'printf "opened %s\n" "$1" >>"$noted"'
  export A2I_RECORD="$stages/record" A2I_TRANSCRIBE="$stages/transcribe" A2I_GENERATE="$stages/generate"
  export A2I_REMOVE_PARENTHESES="$stages/remove_parentheses" A2I_OUTPUT=$BATS_TEST_TMPDIR/outputs
  export TMPDIR=$BATS_TEST_TMPDIR/tmp DISPLAY=:9 stages noted PATH=$stages:$PATH
  unset A2I_QUIET A2I_JSON A2I_EVENTS
  mkdir "$TMPDIR"
}

teardown() { touch "$stages/go"; }

fake() { # <program> <script>: it can use event, heard, and strict_notification, which takes what notify-send takes
  cat >"$stages/$1" <<EOF
#!/bin/bash
cd "\$stages"
event() { printf '{"stage": "record", "event": "%s", "time": 1.5}\n' "\$1" >>"\$A2I_EVENTS"; }
heard() { printf '{"time": 1, "text": "%s", "event":"line","stage" : "transcribe"}\n' "\$1" >>"\$A2I_EVENTS"; }
strict_notification() {
  local args='' action=
  while [ \$# -gt 0 ]; do
    case \$1 in
      -a) [ "\$2" = 'Audio to Image' ] || exit 1; shift 2 ;;
      -i) args="\$args picture=\${2##*/}"; [ -f "\$2" ] || exit 1; shift 2 ;;
      -A) [ ! -e old ] || exit 1; action=\${2%%=*}; shift 2 ;;
      --) shift; break ;;
      *) exit 1 ;;
    esac
  done
  [ \$# -eq 2 ] || exit 1
  printf 'notice %s|%s%s\n' "\$1" "\$2" "\$args" >>"\$noted"
  [ -z "\$action" ] || [ ! -e click ] || echo "\$action"
  [ -z "\$action" ] || [ ! -e simple ] || echo 'Actions are not supported by this notifications server.' >&2
}
$2
EOF
  chmod +x "$stages/$1"
}

press() { "${A2I_TEST_BASH:-bash}" "$root/helpers/shell/hotkey.sh" "$@" </dev/null 3>&-; }

eventually() { # <command…>: true within ten seconds
  for _ in {1..100}; do
    if "$@"; then return; fi
    sleep 0.1
  done
  cat "$noted" "$root/.cache/press.log" >&2
  return 1
}

all_noted() { # each sound once, in any order: players run in the background; and the notifications in theirs
  eventually noted 'sound complete.oga'
  [ "$(grep '^sound' "$noted" | sort)" = 'sound complete.oga
sound message.oga' ]
  [ "$(grep '^notice' "$noted" | cut -d '|' -f 1)" = 'notice Heard
notice Your picture' ]
}

noted() { grep -qxF -- "$1" "$noted"; }

ended() { grep -q '^press: ended' "$root/.cache/press.log" 2>/dev/null; }

gone() { # neither a process nor a file of it is left
  run ! pgrep -f "$root/helpers/shell/hotkey.sh"
  [ -z "$(ls -A "$TMPDIR")" ]
  [ ! -e "$root/.cache/press.lock" ]
}

@test "a press starts the pipe and returns; another ends the recording; what happened is heard and seen" {
  run press
  [ "$status" -eq 0 ]
  [ -z "$output" ]
  eventually noted 'sound message.oga'
  [ "$(grep -c . "$noted")" -eq 1 ]
  eventually test ! -e "$root/.cache/press.lock" # a second later it is no longer the same press
  run press
  [ "$status" -eq 0 ]
  eventually ended
  eventually noted 'notice Your picture|a &lt;b&gt;burger&lt;/b&gt; &amp; "more" $(touch run) picture=a burger.png'
  all_noted
  [ ! -e "$stages/run" ]
  [ "$(ls -l "$root/.cache/press.log" | cut -c 1-10)" = -rw------- ]
  eventually gone
}

@test "a key that is held down is one press" {
  for _ in 1 2 3 4; do press; done
  eventually noted 'sound message.oga'
  press # it repeats still
  sleep 0.7
  run ! noted 'sound complete.oga'
  touch "$stages/go"
  eventually ended
  [ "$(grep -c 'sound message' "$noted")" -eq 1 ]
  [ "$(grep -c 'sound complete' "$noted")" -eq 1 ]
  eventually gone
}

@test "a click on the picture opens it" {
  touch "$stages/go" "$stages/click"
  press
  eventually noted "opened $stages/a burger.png"
}

@test "a picture that nobody clicks on stays closed" {
  touch "$stages/go"
  press
  eventually ended
  sleep 0.5
  run ! grep opened "$noted"
}

@test "where a notification cannot be clicked, and where there are none, the picture opens by itself" {
  touch "$stages/go" "$stages/old"
  press
  eventually noted "opened $stages/a burger.png"
  grep -q '^notice Your picture' "$noted"
  eventually gone
  rm "$stages/old"
  touch "$stages/simple"
  : >"$noted"
  press
  eventually noted "opened $stages/a burger.png"
  [ "$(grep -c '^notice Your picture' "$noted")" -eq 1 ]
  eventually gone
  : >"$noted"
  fake notify-send 'exit 1'
  press
  eventually noted "opened $stages/a burger.png"
}

@test "an error is one notification: what is wrong and what to do" {
  touch "$stages/go"
  fake transcribe 'cat >/dev/null; printf "transcribe: no words were heard\n  Speak louder.\n" >"$A2I_CONTROL/transcribe.error"; exit 65'
  press
  eventually ended
  eventually noted 'notice No picture|no words were heard. Speak louder.'
  [ "$(grep -c notice "$noted")" -eq 1 ]
}

@test "an error of pipeline.sh itself is one notification, too" {
  touch "$BATS_TEST_TMPDIR/file"
  A2I_OUTPUT="$BATS_TEST_TMPDIR/file" press
  eventually noted "notice No picture|cannot write to $BATS_TEST_TMPDIR/file. --output DIR keeps the runs somewhere else"
  [ "$(grep -c notice "$noted")" -eq 1 ]
  eventually gone
  fake transcribe 'cat >/dev/null; kill -9 $$'
  : >"$noted"
  touch "$stages/go"
  press
  eventually noted 'notice No picture|transcribe was ended by signal 9'
}

@test "other events, and what is no event, change nothing" {
  touch "$stages/go"
  cat >"$stages/more" <<'EOF'
heard: no
{}
[1]
{"stage": [], "event": {}}
{"stage": "record", "event": "failed", "message": "no"}
{"stage": "generate", "event": "line", "text": "no"}
{"stage": "transcribe", "event": "line", "te
EOF
  fake transcribe 'cat >/dev/null; cat more >>"$A2I_EVENTS"; printf "\377\n" >>"$A2I_EVENTS"; heard "caf\\u00e9\\ttab"; echo "a burger"'
  press
  eventually grep -q '^notice Your picture' "$noted"
  cat "$noted"
  all_noted
  noted 'notice Heard|café tab'
}

@test "before the first run the system's Python reads the events; where none runs, the end is told still" {
  rm -r "$root/.venv"
  cat >"$root/pipeline.sh" <<'EOF'
#!/bin/bash
[ "$1" != --stop ] || exit 66
printf '%s\n' '{"stage": "record", "event": "ready"}' '{"stage": "pipeline", "event": "failed", "message": "m", "remedy": "r"}' >>"$A2I_EVENTS"
exit 69
EOF
  press
  eventually noted 'notice No picture|m. r'
  noted 'sound message.oga'
  eventually gone
  mkdir "$BATS_TEST_TMPDIR/system"
  for program in bash cat dirname env head kill ln ls mkdir mkfifo mktemp mv printf readlink rm rmdir sed sleep tail uname; do
    ln -s "$(type -P "$program")" "$BATS_TEST_TMPDIR/system/$program"
  done
  ln -s /bin/false "$BATS_TEST_TMPDIR/system/python3"
  : >"$noted"
  PATH=$stages:$BATS_TEST_TMPDIR/system press
  eventually grep -q '^notice No picture|the pipe ended with code 69\. See .*/press.log$' "$noted"
  eventually gone
}

@test "the path that keys are bound to, also through links" {
  touch "$stages/go"
  ln -s "$root/helpers/press.sh" "$BATS_TEST_TMPDIR/one"
  ln -s one "$BATS_TEST_TMPDIR/two"
  (cd / && "${A2I_TEST_BASH:-bash}" "$BATS_TEST_TMPDIR/two" </dev/null 3>&-)
  eventually noted 'sound message.oga'
  eventually ended
  eventually grep -q '^notice Your picture' "$noted"
}

@test "stopped before anything was heard is no error" {
  fake record 'event started; exit 130'
  fake transcribe 'cat >/dev/null; exit 65'
  press
  eventually ended
  run ! grep notice "$noted"
  eventually gone
}

@test "a press that was killed does not stop the next one" {
  ln -s 99999999 "$root/.cache/press.lock"
  touch "$stages/go"
  press
  eventually ended
  eventually grep -q '^notice Your picture' "$noted"
}

@test "it works with the little that a desktop sets, and through a link" {
  touch "$stages/go"
  ln -s "$root/helpers/shell/hotkey.sh" "$BATS_TEST_TMPDIR/link"
  fake transcribe 'cat >/dev/null; [ "$A2I_JSON" != 0 ] || heard it; echo "a burger"'
  env -i HOME="$HOME" PATH="$PATH" TMPDIR="$TMPDIR" DISPLAY=:9 noted="$noted" stages="$stages" A2I_OUTPUT="$A2I_OUTPUT" \
    A2I_RECORD="$A2I_RECORD" A2I_TRANSCRIBE="$A2I_TRANSCRIBE" A2I_GENERATE="$A2I_GENERATE" A2I_QUIET=1 A2I_JSON=1 \
    A2I_REMOVE_PARENTHESES="$A2I_REMOVE_PARENTHESES" "${A2I_TEST_BASH:-bash}" "$BATS_TEST_TMPDIR/link" 3>&-
  eventually noted 'notice Your picture|it picture=a burger.png'
}

@test "a folder that cannot be written is said" {
  rm -rf "$root/.cache"
  touch "$root/.cache"
  press || true
  eventually grep -q "^notice No picture|cannot write to " "$noted"
}

@test "on a Mac text is an argument of the script, and the picture opens" {
  fake osascript 'printf "%s\n" "$@" >osascript.arguments'
  fake open 'printf "opened %s\n" "$*" >>"$noted"'
  fake afplay 'printf "sound %s\n" "$*" >>"$noted"'
  (. "$root/helpers/shell/platform/darwin.sh" && notify '-title' 'say "hi" & $(id) \' /a/picture.png && play_sound start && play_sound stop)
  [ "$(cat "$stages/osascript.arguments")" = '-e
on run argv
-e
display notification (item 2 of argv) with title (item 1 of argv)
-e
end run
--
-title
say "hi" & $(id) \' ]
  eventually noted 'sound /System/Library/Sounds/Pop.aiff'
  noted 'sound /System/Library/Sounds/Tink.aiff'
  noted 'opened /a/picture.png'
}
