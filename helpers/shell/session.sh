# shellcheck shell=bash disable=SC2154
# The working folders of a run: session, beside the runs that are kept, and control, on the system's own disk. Their names
# say whose they are, so that the next run on the same machine finds what one that was killed has left.
# Uses root, output, inputs, is_running, ours, say and die of the script that sources it; sets session and control.

open_session() {
  local machine
  umask 077 # recordings and pictures are the user's alone
  machine=$(uname -n && readlink /proc/self/ns/pid 2>/dev/null) # containers count their processes apart
  machine=${machine//[!A-Za-z0-9]/-}
  clear_up
  if ! { { [ -d "$output" ] || mkdir -p -- "$output"; } && session=$(mktemp -d "$output/.session.$machine.$$.XXXXXX"); } 2>/dev/null; then
    die 73 "cannot write to $output" "--output DIR keeps the runs somewhere else"
  fi
  control=${TMPDIR:-/tmp}/audio-to-image.${session##*/.session.}
  trap 'rm -rf -- "$control" "$root/.cache/recording/$$" "$session"' EXIT
  mkdir -- "$control" 2>/dev/null || die 73 "cannot write to ${TMPDIR:-/tmp}" "make room there"
  [ "${#inputs[@]}" -eq 0 ] || { : >"$session/given"; } 2>/dev/null # what is recorded here, the user has
}

clear_up() { # after runs that were killed: what was spoken is kept
  local left pid wav
  for left in "$output/.session.$machine".*; do
    [ -O "$left" ] || continue # as when there is none
    pid=${left%.*} pid=${pid##*.} control=${TMPDIR:-/tmp}/audio-to-image.${left##*/.session.}
    if is_running "$pid" || stages_are_running; then continue; fi
    rm -rf -- "$control" "$root/.cache/recording/$pid"
    session=$output/.session.$machine.$$.${left##*.}
    mv -- "$left" "$session" 2>/dev/null || continue # another run is clearing up
    for wav in "$session"/.run.*/prompt.wav; do # its picture was almost there
      [ ! -e "$wav" ] || mv -- "$wav" "$session/recording-1.wav"
    done
    set -- "$session"/recording-*.wav
    if [ -e "$1" ] && [ ! -e "$session/given" ]; then
      say "a run was killed before its picture was drawn"
      printf 'pipeline: it was killed\n' >"$session/pipeline.error"
      export A2I_OUTPUT=$output A2I_SESSION=$session A2I_CONTROL=$session
      (A2I_JSON=0 ours helpers.draw.run_folder --stage pipeline --code 137) || continue # no room for it yet
    fi
    rm -rf -- "$session"
  done
}

keep_recordings() { # <stage that failed> <exit code>
  local recordings
  [ "${#inputs[@]}" -eq 0 ] || rm -f -- "$session"/recording-*.wav # the user has it
  recordings=("$session"/recording-*.wav)
  if [ -e "${recordings[0]}" ] || [ "${A2I_JSON:-0}" != 0 ]; then
    (ours helpers.draw.run_folder --stage "$1" --code "$2")
  fi
}
