# shellcheck shell=bash disable=SC2154
# Runs the stages of a pipe at once, in bash 3.2 and 5.x, and knows which one failed first.
# Ctrl-C once, or SIGUSR1, ends the recording and the pipe goes on; Ctrl-C once more, or when nothing is being recorded,
# ends everything.
# Uses session, the working folder of the run, and control, a folder on the system's own disk: the user's may be full,
# or of a kind that has no fifos. Stages report on fd 9, a fifo:  NAME exit N.

STAGES='record transcribe remove_parentheses confirm enrich generate' # in the order of the pipe

stage() { # <name> <command…>: one element of the pipe, in a process group of its own
  local name=$1 code=0
  shift
  set -m # the group: a signal reaches what the stage has started too, and a shell script may trap SIGINT
  "$@" <&0 9>&- &
  set +m
  printf '%s\n' "$!" >"$control/$name.pid"
  { wait "$!"; } 2>/dev/null || code=$?
  rm -f -- "$control/$name.pid"
  # A recorder that was told to stop has done its work, unless it says otherwise: ffmpeg ends with 255 then, arecord
  # by the signal, although the output is complete.
  if [ "$name" = record ] && [ -e "$control/stopping" ] && [ ! -e "$control/record.error" ]; then code=0; fi
  # The reader went away: its own exit code says whether that was right.
  [ "$code" -ne 141 ] || code=0
  printf '%s exit %s\n' "$name" "$code" >&9
  return "$code"
}

signal_stages() { # <signal> <name…>
  local signal=$1 name pid
  shift
  for name in "$@"; do
    if read -r pid 2>/dev/null <"$control/$name.pid"; then kill "-$signal" -- "-$pid" 2>/dev/null; fi
  done
}

stop_recording() {
  : >"$control/stopping"
  signal_stages INT record
}

watch() { # notes the failures in order; what stands before a stage that failed has no reader any more and is stopped
  local name what code before
  trap '' INT
  while read -r name what code <&9; do
    [ "$what" != quit ] || return 0
    [ "$name" = record ] || stop_recording # nobody hears it any more; it keeps what was heard
    [ "$code" -ne 0 ] || continue
    printf '%s %s\n' "$name" "$code" >>"$control/failures"
    for before in $STAGES; do
      [ "$before" != "$name" ] || break
      [ "$before" = record ] || signal_stages TERM "$before"
    done
  done
}

first_failure() { # prints its name; it is the cause, since a stage starves only after the one before it has reported
  local name code
  read -r name code <"$control/failures"
  printf '%s' "$name"
}

on_interrupt() {
  if [ -e "$control/record.pid" ] && [ ! -e "$control/stopping" ]; then
    stop_recording
  else
    abort 130
  fi
}

abort() { # <exit code>
  local tenths=30
  aborted=$1
  # shellcheck disable=SC2086
  signal_stages TERM $STAGES
  ( # what does not end within three seconds is killed; the control folder goes when all have ended
    while [ -d "$control" ] && [ "$((tenths -= 1))" -gt 0 ]; do sleep 0.1; done
    # shellcheck disable=SC2086
    signal_stages KILL $STAGES
  ) 9>&- &
}

run_stages() { # <function that is the pipe>: returns the exit code of the first stage that failed; sets aborted
  local job watcher name code
  aborted=0
  mkfifo "$control/reports" && exec 9<>"$control/reports" || return 73 # read and write: neither end ever blocks
  trap on_interrupt INT
  trap stop_recording USR1
  trap 'abort 143' TERM
  trap 'abort 129' HUP
  watch &
  watcher=$!
  set -m # a process group of its own: only this function decides what Ctrl-C means
  "$1" &
  job=$!
  set +m
  while kill -0 "$job" 2>/dev/null; do wait "$job"; done # a trap makes wait return early
  trap '' INT TERM HUP USR1
  printf 'run quit 0\n' >&9
  wait "$watcher"
  exec 9>&-
  [ "$aborted" -eq 0 ] || return "$aborted"
  [ -s "$control/failures" ] || return 0
  name=$(first_failure)
  code=$(sed -n "s/^$name //p" "$control/failures")
  return "$code"
}
