#!/usr/bin/env bash
# The command of the hotkey. During a recording it ends the recording. Otherwise it starts the pipe without a terminal. The
# user gets a sound when the recording begins and ends, and notifications with the recognised text, with the picture, and
# with errors. The messages of the last run are in .cache/press.log.
# shellcheck disable=SC2154 # root is set by locate
case ${BASH_VERSION:+$-} in *p*) ;; *) POSIXLY_CORRECT=1 && exec "${BASH:-bash}" -p -- "$0" "$@" ;; esac # surroundings.sh says why
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
    0) ;; # the process that started the recording does the rest
    66) # nothing is being recorded
      set -m # its own process group: the pipe must survive the hotkey daemon's command
      "$root/helpers/shell/hotkey.sh" follow </dev/null >/dev/null 2>&1 &
      ;;
    *) notify "No picture" "${said#*: }" ;;
  esac
  return "$code"
}

# The pipe writes events to a fifo ($A2I_EVENTS), which hotkey.py reads. Its messages go into the log.
follow() {
  local event text heard='' message='' code=0 picture job
  umask 077
  if ! { mkdir -p -- "$root/.cache" && exec 7>"$root/.cache/press.log"; } 2>/dev/null; then
    notify "No picture" "cannot write to $root/.cache"
    return 73
  fi
  starts_alone || return 0
  folder=$(mktemp -d "${TMPDIR:-/tmp}/audio-to-image.XXXXXX" 2>&7) || {
    started
    notify "No picture" "cannot write to ${TMPDIR:-/tmp}" 7>&-
    return 73
  }
  trap 'rm -rf -- "$folder"; started' EXIT
  mkfifo "$folder/events" && exec 8<>"$folder/events" || return 73 # open for reading and writing: neither end blocks
  {
    code=0
    A2I_EVENTS=$folder/events A2I_JSON=0 "$root/pipeline.sh" --no-open >"$folder/pictures" 2>&7 7>&- 8>&- || code=$?
    printf '{"stage": "hotkey", "event": "over"}\n' >&8
    exit "$code"
  } &
  job=$!
  while IFS=$'\t' read -r event text; do
    case $event in
      ready)
        play_sound start 7>&- 8>&-
        { sleep 1 && started; } 7>&- 8>&- &
        ;;
      stopped) play_sound stop 7>&- 8>&- ;;
      heard)
        heard=$text
        notify "Heard" "$heard" 7>&- 8>&-
        ;;
      failed) message=$text ;;
    esac
  done < <("$(any_python)" -I -S "$root/helpers/shell/hotkey.py" <&8 2>&7 7>&- 8>&-)
  wait "$job" || code=$?
  picture=$(tail -n 1 "$folder/pictures")
  if [ "$code" -eq 0 ] && [ -f "$picture" ]; then
    [ -n "$heard" ] || heard=$(head -n 1 -- "${picture%/*}/prompt.txt" 2>/dev/null) # the user's own recogniser sends no events
    notify "Your picture" "$heard" "$picture" 7>&- 8>&-
  elif [ "$code" -ne 130 ]; then # 130: the user stopped it before any speech
    notify "No picture" "${message:-the pipe ended with code $code. See $root/.cache/press.log}" 7>&- 8>&-
  fi
  printf 'press: ended %d\n' "$code" >&7
}

any_python() { # prints a Python that works; before the first run there is only the system's
  local program
  for program in "$root/.venv/bin/python" python3; do
    if "$program" -I -S -c '' 2>/dev/null; then break; fi
  done
  printf '%s' "$program"
}

# A second press counts as key repeat until one second after the microphone opened. The lock marks that time.

starting() { kill -0 "$(readlink -- "$root/.cache/press.lock")" 2>/dev/null; }

starts_alone() {
  local lock=$root/.cache/press.lock
  if ln -s "$$" "$lock" 2>/dev/null; then return 0; fi
  if starting; then return 1; fi
  rm -f -- "$lock" # left by a process that was killed
  ln -s "$$" "$lock" 2>/dev/null
}

started() { # releases the lock, if it is still ours
  [ "$(readlink -- "$root/.cache/press.lock")" != "$$" ] || rm -f -- "$root/.cache/press.lock"
}

main() {
  local code=0
  locate
  . "$root/helpers/shell/surroundings.sh"
  # shellcheck disable=SC2086 # a list of names
  make_absolute HOME $TOOLS_PATHS
  PATH=${PATH:-/usr/bin:/bin}:/opt/homebrew/bin:/usr/local/bin # the PATH of a desktop may lack these
  export PATH
  case $(uname -s) in
    Darwin) . "$root/helpers/shell/platform/darwin.sh" ;;
    *) . "$root/helpers/shell/platform/linux.sh" ;;
  esac
  case ${1:-} in
    '') press || code=$? ;;
    follow) follow || code=$? ;;
    *)
      printf 'press: unknown argument %s\n  run it without arguments\n' "$1" >&2
      code=64
      ;;
  esac
  [ "$code" -ne 66 ] || code=0 # nothing was being recorded, so a recording was started
  return "$code"
}

main "$@"
