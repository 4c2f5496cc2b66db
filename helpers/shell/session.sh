# shellcheck shell=bash disable=SC2154
# The working folders of a run: session, next to the runs that are kept, and control, on the system's own disk. Their names
# hold the machine and the process, so that a later run on the same machine finds what a killed run has left.
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
  [ "${#inputs[@]}" -eq 0 ] || { : >"$session/given"; } 2>/dev/null # the user has the recordings already
}

clear_up() { # after runs that were killed: what was spoken is kept
  local left pid wav control session recordings # for the functions that are called from here, too
  for left in "$output/.session.$machine".*; do
    [ -O "$left" ] || continue # not ours, or there is none
    pid=${left%.*} pid=${pid##*.} control=${TMPDIR:-/tmp}/audio-to-image.${left##*/.session.}
    if is_running "$pid" || stages_are_running; then continue; fi
    rm -rf -- "$control" "$root/.cache/recording/$pid"
    session=$output/.session.$machine.$$.${left##*.}
    mv -- "$left" "$session" 2>/dev/null || continue # another run is clearing up
    for wav in "$session"/.run.*/prompt.wav; do # its picture was almost finished; its number is not known here
      [ -e "$wav" ] || continue
      mv -- "$wav" "$session/recording-0.wav"
      [ ! -e "${wav%/*}/transcript.txt" ] || mv -- "${wav%/*}/transcript.txt" "$session/transcript-0.txt"
    done
    recordings=("$session"/recording-*.wav)
    if [ -e "${recordings[0]}" ] && [ ! -e "$session/given" ]; then
      say "a run was killed before its picture was drawn"
      printf 'pipeline: it was killed\n' >"$session/pipeline.error"
      ( # without room for it, it waits for the next run
        export A2I_OUTPUT=$output A2I_SESSION=$session A2I_CONTROL=$session
        A2I_JSON=0 ours helpers.draw.run_folder --stage pipeline --code 137
      ) || continue
    fi
    rm -rf -- "$session"
  done
}

keep_recordings() { # <stage that failed> <exit code>
  local recordings
  [ "${#inputs[@]}" -eq 0 ] || rm -f -- "$session"/recording-*.wav # the user has them already
  recordings=("$session"/recording-*.wav)
  if [ -e "${recordings[0]}" ] || [ "${A2I_JSON:-0}" != 0 ]; then
    (ours helpers.draw.run_folder --stage "$1" --code "$2")
  fi
}

# Downloads the small speech model, once, before the first recording. The hub has five seconds to answer, and a minute for
# the download; if the estimate after five seconds is longer, the download stops.
offer_speech_model() {
  local asked=$root/.cache/speech-model-offered
  if [ -n "${A2I_TRANSCRIBE:-}${A2I_WHISPER:-}" ] || [ -e "$asked" ]; then return; fi
  (umask 077 && mkdir -p -- "$root/.cache" && : >"$asked") 2>/dev/null || return 0
  (cd -- "$root" && "$python" "${isolated[@]}" download_model.py --offer) || true
}

# Where the user does not say whether to translate: what is not English is, if our own image model reads English only and
# the recogniser can. It costs a tenth of a second, and nothing where the language is English.
decide_translation() {
  [ -z "${A2I_TRANSLATE:-}${A2I_TRANSCRIBE:-}${A2I_ENRICH:-}${A2I_GENERATE:-}" ] || return 0
  [ "${A2I_TALK:-0}" = 0 ] || return 0
  case ${A2I_LANGUAGE:-en} in [eE][nN] | [eE][nN][-_]*) return ;; esac
  A2I_TRANSLATE=$(ours helpers.listen.translation) || exit
  export A2I_TRANSLATE
}
