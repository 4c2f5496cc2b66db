# shellcheck shell=bash disable=SC2154
# Runs the stages of a pipe at once, in bash 3.2 and 5.x, and knows which one failed first.
# Ctrl-C once, or SIGUSR1, ends the recording and the pipe goes on; Ctrl-C once more, or when nothing is being recorded,
# ends everything; so does the death of pipeline.sh itself, whatever killed it.
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
  [ "$code" -eq 0 ] || kill -KILL -- "-$!" 2>/dev/null # what it had started, and would keep the pipe open
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

stages_are_running() { # whether one of the run with this control folder is
  local file group
  for file in "$control"/*.pid; do
    if { read -r group <"$file"; } 2>/dev/null && kill -0 -- "-$group" 2>/dev/null; then return 0; fi
  done
  return 1
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
  stop_recording
  # shellcheck disable=SC2086
  signal_stages TERM ${STAGES#record}
  ( # what does not end within three seconds is killed; half a second for those that are just being started
    while [ "$((tenths -= 1))" -gt 0 ] && { [ "$tenths" -gt 25 ] || stages_are_running; }; do
      [ "$tenths" -ne 20 ] || signal_stages TERM record
      sleep 0.1
    done
    # shellcheck disable=SC2086
    signal_stages KILL $STAGES
  ) 8>&- 9>&- &
}

guard() { # lives as long as pipeline.sh does: when that is killed, nobody else ends the stages
  trap '' INT TERM HUP
  read -r <&7 && return # else the only writer of fd 8 has died
  abort 137
  wait
  printf 'run quit 0\n' >&9
}

run_stages() { # <function that is the pipe>: returns the exit code of the first stage that failed; sets aborted
  local job watcher guard name code
  aborted=0
  # read and write: neither end ever blocks
  # shellcheck disable=SC2094
  mkfifo "$control/reports" "$control/alive" && exec 9<>"$control/reports" 8<>"$control/alive" 7<"$control/alive" || return 73
  trap on_interrupt INT
  trap stop_recording USR1
  trap 'abort 143' TERM
  trap 'abort 129' HUP
  watch 7<&- 8>&- &
  watcher=$!
  set -m # process groups of their own: only this function decides what Ctrl-C means
  guard 8>&- &
  guard=$!
  "$1" 7<&- 8>&- &
  job=$!
  set +m
  exec 7<&-
  while kill -0 "$job" 2>/dev/null; do wait "$job"; done # a trap makes wait return early
  trap '' INT TERM HUP USR1
  printf 'run quit 0\n' >&9
  printf 'over\n' >&8
  wait "$watcher" "$guard"
  exec 8>&- 9>&-
  [ "$aborted" -eq 0 ] || return "$aborted"
  [ -s "$control/failures" ] || return 0
  name=$(first_failure)
  code=$(sed -n "s/^$name //p" "$control/failures")
  return "$code"
}
