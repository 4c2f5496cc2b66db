#!/usr/bin/env bash
# What the key runs. Pressed while a recording runs, it ends it; else it starts the pipe, without a terminal: a sound
# when it really records and one when it stopped, a notification with what was heard, one with the picture, and one
# when something failed. What the last press said is in .cache/press.log.
# shellcheck disable=SC2154 # root is set by locate
set -u -o pipefail

locate() { # sets root, through any number of symbolic links
  local path=${BASH_SOURCE[0]} link
  while [ -L "$path" ]; do
    link=$(readlink -- "$path")
    case $link in
      /*) path=$link ;;
      *) path=$(dirname -- "$path")/$link ;;
    esac
  done
  root=$(CDPATH='' cd -- "$(dirname -- "$path")/../.." && pwd -P)
}

press() {
  local said code=0
  if starting; then return 0; fi
  said=$("$root/pipeline.sh" --stop 2>&1 </dev/null) || code=$?
  case $code in
    0) ;; # the press that started it goes on from here
    66) # nothing is being recorded
      set -m # a group of its own: the pipe outlives who pressed the key
      "$root/helpers/shell/hotkey.sh" follow </dev/null >/dev/null 2>&1 &
      ;;
    *) notify "No picture" "${said#*: }" ;;
  esac
  return "$code"
}

# One fifo carries what the pipe says to a person (its stderr) and what its stages note ($A2I_EVENTS): lines of either
# kind, each written at once, in the order in which they happened.
follow() {
  local line heard='' message='' remedy='' code=70 picture
  umask 077
  if ! { mkdir -p -- "$root/.cache" && exec 7>"$root/.cache/press.log"; } 2>/dev/null; then
    notify "No picture" "cannot write to $root/.cache"
    return 73
  fi
  starts_alone || return 0
  folder=$(mktemp -d "${TMPDIR:-/tmp}/audio-to-image.XXXXXX") || return 73
  trap 'rm -rf -- "$folder"; started' EXIT
  mkfifo "$folder/said" && exec 8<>"$folder/said" || return 73 # read and write: neither end ever waits for the other
  {
    export A2I_EVENTS=$folder/said A2I_QUIET=0 A2I_JSON=0 PYTHONUNBUFFERED='' # unbuffered, a line is two writes
    "$root/pipeline.sh" --no-open >"$folder/pictures" 2>"$folder/said"
    printf 'press: ended %d\n' "$?" >"$folder/said"
  } 8>&- &
  while IFS= read -r line <&8; do
    case $line in
      '{"stage": "record", "event": "ready"'*)
        play_sound start 7>&- 8>&-
        { sleep 1 && started; } 7>&- 8>&- &
        ;;
      '{"stage": "record", "event": "heard"'*) play_sound stop 7>&- 8>&- ;;
      '{"stage": '*) ;;
      'press: ended '*)
        code=${line##* }
        break
        ;;
      'heard: '*)
        heard=${line#heard: }
        notify "Heard" "$heard" 7>&- 8>&-
        ;;
      '  '*) remedy=${remedy:-${line#  }} ;;
      *) message=$line remedy='' ;;
    esac
    printf '%s\n' "$line" >&7
  done
  picture=$(tail -n 1 "$folder/pictures")
  if [ "$code" -eq 0 ] && [ -f "$picture" ]; then
    notify "Your picture" "$heard" "$picture" 7>&- 8>&-
  elif [ "$code" -ne 130 ]; then # 130: ended before anything was heard, as the user wanted
    message=${message#*: }
    notify "No picture" "${message:-the pipe ended with $code}${remedy:+. $remedy}" 7>&- 8>&-
  fi
  printf 'press: ended %d\n' "$code" >&7
}

# From the press until a second after the microphone opened, another press means that the key was held down.

starting() { kill -0 "$(readlink -- "$root/.cache/press.lock")" 2>/dev/null; }

starts_alone() {
  local lock=$root/.cache/press.lock
  if ln -s "$$" "$lock" 2>/dev/null; then return 0; fi
  if starting; then return 1; fi
  rm -f -- "$lock" # of one that was killed
  ln -s "$$" "$lock" 2>/dev/null
}

started() { # gives the lock back, if it is still ours
  [ "$(readlink -- "$root/.cache/press.lock")" != "$$" ] || rm -f -- "$root/.cache/press.lock"
}

main() {
  local code=0
  locate
  PATH=${PATH:-/usr/bin:/bin}:/opt/homebrew/bin:/usr/local/bin # a desktop's own may lack these
  export PATH
  case $(uname -s) in
    Darwin) . "$root/helpers/shell/platform/darwin.sh" ;;
    *) . "$root/helpers/shell/platform/linux.sh" ;;
  esac
  case ${1:-} in
    '') press || code=$? ;;
    follow) follow || code=$? ;;
    *)
      printf 'press: unknown argument %s\n  the key runs it without any\n' "$1" >&2
      code=64
      ;;
  esac
  [ "$code" -ne 66 ] || code=0 # nothing was being recorded, so a recording was started
  return "$code"
}

main "$@"
