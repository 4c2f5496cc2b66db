# shellcheck shell=bash disable=SC2154
# Runs all stages of a pipe at the same time, in bash 3.2 and 5.x, and knows which one failed first.
# The first Ctrl-C, or SIGUSR1, ends the recording, and the pipe goes on. A second Ctrl-C, or one while nothing is
# recorded, ends everything. So does the death of pipeline.sh, whatever killed it.
# Uses session, the working folder of the run, and control, a folder on the system's own disk: the user's disk may be
# full, or may not support fifos. Stages report on fd 9, a fifo:  NAME exit N.

STAGES='record transcribe remove_parentheses say confirm enrich generate' # in the order of the pipe

stage() { # <name> <command…>: one element of the pipe, in a process group of its own
  local name=$1 code=0
  shift
  set -m # a group: signals reach the children of the stage, too, and a shell script can trap SIGINT
  "$@" <&0 9>&- &
  set +m
  printf '%s\n' "$!" >"$control/$name.pid"
  { wait "$!"; } 2>/dev/null || code=$?
  rm -f -- "$control/$name.pid"
  [ "$code" -eq 0 ] || kill -KILL -- "-$!" 2>/dev/null # its children would keep the pipe open
  # A recorder that was told to stop has done its work, unless it reports an error. FFmpeg then ends with 255, arecord
  # with the signal, although their output is complete.
  if [ "$name" = record ] && [ -e "$control/stopping" ] && [ ! -e "$control/record.error" ]; then code=0; fi
  # Broken pipe: the exit code of the stage that stopped reading says whether that was an error.
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

stages_are_running() { # whether a stage of the run with this control folder is running
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

watch() { # notes failures in order, and stops the stages before a failed one, which have no reader any more
  local name what code before
  trap '' INT
  while read -r name what code <&9; do
    [ "$what" != quit ] || return 0
    [ "$name" = record ] || stop_recording # nobody reads the sound any more; record saves what it has
    [ "$code" -ne 0 ] || continue
    printf '%s %s\n' "$name" "$code" >>"$control/failures"
    for before in $STAGES; do
      [ "$before" != "$name" ] || break
      [ "$before" = record ] || signal_stages TERM "$before"
    done
  done
}

first_failure() { # prints its name: the cause, since later stages fail only after it has reported
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
  ( # kills what has not ended after three seconds; waits at least half a second for stages that are just starting
    while [ "$((tenths -= 1))" -gt 0 ] && { [ "$tenths" -gt 25 ] || stages_are_running; }; do
      [ "$tenths" -ne 20 ] || signal_stages TERM record
      sleep 0.1
    done
    # shellcheck disable=SC2086
    signal_stages KILL $STAGES
  ) 8>&- 9>&- &
}

guard() { # ends the stages when pipeline.sh was killed
  trap '' INT TERM HUP
  read -r <&7 && return # no line: the only writer of fd 8, pipeline.sh, has died
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
