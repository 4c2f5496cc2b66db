#!/usr/bin/env bash
# You speak; a moment later the picture is there.
#
#   record | transcribe | remove_parentheses | confirm | enrich | generate
#
# All stages start at the same moment and load their models while the microphone is still open; after the last word
# only the work that needs the words is left. This script reads the options, makes one working folder, runs the pipe
# and passes on the exit code. It knows nothing of a stage but the contract in the README.
# shellcheck disable=SC2034 # the A2I_… settings are exported all at once, for the stages
set -u -o pipefail

usage() {
  cat <<EOF
Usage: ./pipeline.sh [options]      speak; the picture's path is printed, the picture opens
  -i, --input FILE      draw what a recording says (any audio or video; - is stdin); may be repeated
  -p, --prompt TEXT     draw TEXT, no audio
  -t, --time SECONDS    longest recording (microphone ${A2I_TIME:-10}, files ${A2I_TIME:-30}); it ends when you do
      --silence SECONDS silence that ends it (${A2I_SILENCE:-0.8})     --fixed-window   record all of the time
      --loop            keep listening: a picture of each thing you say, until "stop listening"
      --confirm         show what was heard first: Enter, or three seconds, draw it, Esc does not
      --stop            end the recording that is running, as Ctrl-C does
  -d, --device NAME     microphone (${A2I_DEVICE:-default})     --list-devices    name the microphones
  -l, --language CODE   spoken language, or auto (${A2I_LANGUAGE:-en})     --translate   draw the English of it
  -m, --model NAME      image model: a name of the catalogue or a folder (${A2I_MODEL:-by machine})
  -w, --whisper NAME    speech model: a name of the catalogue or a file (${A2I_WHISPER:-by language})
  -n, --steps N         sampling steps (${A2I_STEPS:-by model})     -s, --seed N    (${A2I_SEED:-random})
  -g, --guidance X      guidance scale (${A2I_GUIDANCE:-by model})     -c, --count N   pictures (${A2I_COUNT:-1})
      --negative TEXT   what should not be in the picture     --size WxH   pixels (${A2I_SIZE:-by model})
      --safe            leave out what a safety filter takes (an extra download, see the README)
  -o, --output DIR      where runs are kept (${A2I_OUTPUT:-outputs})
      --open, --no-open show the picture (default: when run from a terminal)
      --json            print run.json's content instead of the path
      --doctor          check this machine, and say what to do
  -q, --quiet           only errors          -v, --verbose   tracebacks and timings
  -h, --help            this text            -V, --version   the version
Every option has an environment variable, for example A2I_TIME=5; the option wins.
EOF
}

# ---- where things are

locate() { # sets root, through any number of symbolic links
  local path=${BASH_SOURCE[0]} link
  while [ -L "$path" ]; do
    link=$(readlink -- "$path")
    case $link in
      /*) path=$link ;;
      *) path=$(dirname -- "$path")/$link ;;
    esac
  done
  root=$(CDPATH='' cd -- "$(dirname -- "$path")" && pwd -P)
}

absolute() { # <path>: the same path from any folder; - stays what it is
  case $1 in
    - | /*) printf '%s' "$1" ;;
    *) printf '%s' "$PWD/$1" ;;
  esac
}

say() { [ "${A2I_QUIET:-0}" != 0 ] || printf 'pipeline: %s\n' "$1" >&2; }

die() { # <exit code> <what is wrong> [what to do]
  printf 'pipeline: %s\n' "$(printable "$2")" >&2
  [ -z "${3:-}" ] || printf '  %s\n' "$(printable "$3")" >&2
  note_failure "$2" "${3:-}"
  exit "$1"
}

note_failure() { # <what is wrong> <what to do>: as an event, for what follows $A2I_EVENTS
  local line
  [ -n "${A2I_EVENTS:-}" ] || return 0
  line=$(printf '{"stage": "pipeline", "event": "failed", "message": "%s", "remedy": "%s"}' \
    "$(printable "$1" | sed 's/[\\"]/\\&/g')" "$(printable "$2" | sed 's/[\\"]/\\&/g')")
  if [ -p "$A2I_EVENTS" ]; then
    printf '%s\n' "$line" 1<>"$A2I_EVENTS" # read and write: it does not wait for a reader that is gone
  else
    printf '%s\n' "$line" >>"$A2I_EVENTS"
  fi 2>/dev/null
}

printable() { # <text>: without control and direction characters, in bytes of UTF-8; it may hold what an option was given
  printf '%s' "$1" | LC_ALL=C tr '\001-\037\177' ' ' |
    LC_ALL=C sed $'s/\302[\200-\237]/ /g; s/\330\234/ /g; s/\342\200[\216\217\250-\256]/ /g; s/\342\201[\246-\251]/ /g'
}

# ---- options

wrong() { die 64 "$1" "./pipeline.sh --help shows the options"; }

whole_number() { # <option> <value> <smallest>
  case $2 in '' | *[!0-9]*) wrong "$1 takes a whole number, not '$2'" ;; esac
  if [ "${#2}" -gt 10 ] || [ "$2" -lt "$3" ]; then wrong "$1 takes a whole number from $3, not '$2'"; fi
}

decimal_number() { # <option> <value>
  case $2 in '' | . | *[!0-9.]* | *.*.*) wrong "$1 takes a number, not '$2'" ;; esac
}

parse_options() {
  local option value
  inputs=() want=picture
  while [ $# -gt 0 ]; do
    option=$1
    shift
    case $option in
      --*=*) # --time=5 is --time 5
        value=${option#*=} option=${option%%=*}
        case $option in
          --list-devices | --stop | --doctor | --loop | --confirm | --fixed-window | --safe | --translate | --open | --no-open | \
            --json | --quiet | --verbose | --help | --version)
            wrong "$option takes no value" ;;
        esac
        set -- "$value" ${1+"$@"}
        ;;
    esac
    case $option in
      -i | --input | -p | --prompt | -t | --time | --silence | -d | --device | -l | --language | -m | --model | -w | --whisper | \
        -n | --steps | -s | --seed | -g | --guidance | -c | --count | --negative | --size | -o | --output)
        [ $# -gt 0 ] || wrong "$option needs a value"
        value=$1
        shift
        [ -n "$value" ] || [ "$option" = --negative ] || wrong "$option needs a value"
        ;;
    esac
    case $option in
      -i | --input) inputs+=("$(absolute "$value")") ;;
      -p | --prompt) A2I_PROMPT=$value ;;
      -t | --time) A2I_TIME=$value ;;
      --silence) A2I_SILENCE=$value ;;
      --fixed-window) A2I_FIXED_WINDOW=1 ;;
      --loop) A2I_LOOP=1 ;;
      --confirm) A2I_CONFIRM=1 ;;
      -d | --device) A2I_DEVICE=$value ;;
      --list-devices) want=devices ;;
      --stop) want=stop ;;
      --doctor) want=doctor ;;
      -l | --language) A2I_LANGUAGE=$value ;;
      --translate) A2I_TRANSLATE=1 ;;
      -m | --model) A2I_MODEL=$value ;;
      -w | --whisper) A2I_WHISPER=$value ;;
      -n | --steps) A2I_STEPS=$value ;;
      -s | --seed) A2I_SEED=$value ;;
      -g | --guidance) A2I_GUIDANCE=$value ;;
      -c | --count) A2I_COUNT=$value ;;
      --negative) A2I_NEGATIVE=$value ;;
      --size) A2I_SIZE=$value ;;
      --safe) A2I_SAFE=1 ;;
      -o | --output) output=$(absolute "$value") ;;
      --open) A2I_OPEN=1 ;;
      --no-open) A2I_OPEN=0 ;;
      --json) A2I_JSON=1 ;;
      -q | --quiet) A2I_QUIET=1 ;;
      -v | --verbose) A2I_VERBOSE=1 ;;
      -h | --help) want=help ;;
      -V | --version) want=version ;;
      *) wrong "unknown option '$option'" ;;
    esac
  done
}

check_options() {
  local name
  [ -n "${A2I_PROMPT:-}" ] || unset A2I_PROMPT
  [ "${#inputs[@]}" -gt 0 ] || [ -n "${A2I_PROMPT+set}" ] || [ -z "${A2I_INPUT:-}" ] || inputs=("$A2I_INPUT")
  if [ -n "${A2I_PROMPT+set}" ]; then
    [ "${#inputs[@]}" -eq 0 ] || wrong "--prompt and --input exclude each other"
    A2I_PROMPT=$(printf '%s' "$A2I_PROMPT" | LC_ALL=C tr '\n\r' '  ') # one line is one picture
    case $A2I_PROMPT in *[![:space:]]*) ;; *) wrong "--prompt is empty" ;; esac
  fi
  for name in ${inputs[@]+"${inputs[@]}"}; do
    [ "$name" != - ] || [ "${#inputs[@]}" -eq 1 ] || wrong "--input - stands alone"
  done
  if [ "${A2I_LOOP:-0}" != 0 ]; then
    [ -z "${A2I_PROMPT+set}" ] || wrong "--loop and --prompt exclude each other"
    [ "${#inputs[@]}" -eq 0 ] || wrong "--loop and --input exclude each other"
    [ "${A2I_FIXED_WINDOW:-0}" = 0 ] || wrong "--loop and --fixed-window exclude each other"
  fi
  [ -z "${A2I_TIME:-}" ] || decimal_number --time "$A2I_TIME"
  [ -z "${A2I_SILENCE:-}" ] || decimal_number --silence "$A2I_SILENCE"
  [ -z "${A2I_STEPS:-}" ] || whole_number --steps "$A2I_STEPS" 1
  [ -z "${A2I_SEED:-}" ] || whole_number --seed "$A2I_SEED" 0
  [ -z "${A2I_COUNT:-}" ] || whole_number --count "$A2I_COUNT" 1
  [ -z "${A2I_GUIDANCE:-}" ] || decimal_number --guidance "$A2I_GUIDANCE"
  if [ -n "${A2I_SIZE:-}" ]; then
    case $A2I_SIZE in
      *x*) whole_number --size "${A2I_SIZE%%x*}" 64 && whole_number --size "${A2I_SIZE#*x}" 64 ;;
      *) wrong "--size takes WIDTHxHEIGHT, for example 512x512, not '$A2I_SIZE'" ;;
    esac
  fi
  case ${A2I_MODEL:-} in */*) A2I_MODEL=$(absolute "$A2I_MODEL") ;; esac # else a name of the catalogue
  case ${A2I_WHISPER:-} in */*) A2I_WHISPER=$(absolute "$A2I_WHISPER") ;; esac
  [ -z "${A2I_MODELS:-}" ] || A2I_MODELS=$(absolute "$A2I_MODELS")
  for name in TIME SILENCE FIXED_WINDOW LOOP DEVICE LANGUAGE TRANSLATE MODEL WHISPER STEPS SEED GUIDANCE COUNT NEGATIVE SIZE SAFE JSON QUIET VERBOSE; do
    export "A2I_$name"
  done
}

# ---- the stages: ours, or the user's own program

ours() { # <module> [arguments]: one of our stages; from the root, so that no file of the user's folder is imported
  trap '' INT # a stage that has a use for SIGINT takes it when it is ready for it
  cd -- "$root" && exec "$python" -m "$@"
}

choose_stages() {
  RECORD=(ours helpers.listen.record)
  TRANSCRIBE=(ours helpers.listen.transcribe)
  REMOVE_PARENTHESES=(ours remove_parentheses)
  ENRICH=()
  GENERATE=(ours helpers.draw.generate)
  # Words are split at spaces and nothing is expanded: these name a program and its options.
  [ -z "${A2I_RECORD:-}" ] || read -r -a RECORD <<<"$A2I_RECORD"
  [ -z "${A2I_TRANSCRIBE:-}" ] || read -r -a TRANSCRIBE <<<"$A2I_TRANSCRIBE"
  [ -z "${A2I_REMOVE_PARENTHESES:-}" ] || read -r -a REMOVE_PARENTHESES <<<"$A2I_REMOVE_PARENTHESES"
  [ -z "${A2I_ENRICH:-}" ] || read -r -a ENRICH <<<"$A2I_ENRICH"
  [ -z "${A2I_GENERATE:-}" ] || read -r -a GENERATE <<<"$A2I_GENERATE"
  export A2I_OUTPUT=$output A2I_SESSION=$session A2I_CONTROL=$control PYTHONUTF8=1
  there GENERATE "${GENERATE[0]:-}"
  if [ -n "${A2I_PROMPT+set}" ]; then return; fi
  [ "${#inputs[@]}" -gt 1 ] || there RECORD "${RECORD[0]:-}"
  there TRANSCRIBE "${TRANSCRIBE[0]:-}"
  there REMOVE_PARENTHESES "${REMOVE_PARENTHESES[0]:-}"
  [ "${#ENRICH[@]}" -eq 0 ] || there ENRICH "${ENRICH[0]}"
}

there() { # <stage> <program>
  type -- "$2" >/dev/null 2>&1 || die 69 "there is no program '$2'" "A2I_$1 names it; without A2I_$1 our own is used"
}

pipe() {
  if [ -n "${A2I_PROMPT+set}" ]; then
    printf '%s\n' "$A2I_PROMPT" | generate
  elif [ "${#inputs[@]}" -gt 1 ]; then # a stream has no marks between recordings, so transcribe opens the files
    stage transcribe "${TRANSCRIBE[@]}" "${inputs[@]}" </dev/null | words
  elif [ "${#inputs[@]}" -eq 1 ]; then
    stage record "${RECORD[@]}" --input "${inputs[0]}" | stage transcribe "${TRANSCRIBE[@]}" | words
  else
    stage record "${RECORD[@]}" </dev/null | stage transcribe "${TRANSCRIBE[@]}" | words
  fi
}

words() {
  tee "$session/transcript.txt" 2>/dev/null | stage remove_parentheses "${REMOVE_PARENTHESES[@]}" |
    if [ "${A2I_CONFIRM:-0}" != 0 ]; then stage confirm ours helpers.words.confirm | enrich; else enrich; fi
}

enrich() {
  if [ "${#ENRICH[@]}" -gt 0 ]; then stage enrich "${ENRICH[@]}" | generate; else generate; fi
}

generate() {
  if [ "$opens" = 1 ]; then stage generate "${GENERATE[@]}" | show; else stage generate "${GENERATE[@]}"; fi
}

show() {
  local path
  while IFS= read -r -n 4096 path || [ -n "$path" ]; do # no path is longer
    printf '%s\n' "$path"
    [ ! -f "$path" ] || open_picture "$path"
  done
}

# ---- one run

# A pipeline that listens leaves a file .cache/recording/PID, with its control folder and its session, so that --stop, and
# a key that was pressed again, find it.
announce_recording() {
  { mkdir -p -- "$root/.cache/recording" && printf '%s\n' "$control" "$session" >"$root/.cache/recording/$$"; } 2>/dev/null
}

stop_running() {
  local file pid folder code=66
  for file in "$root"/.cache/recording/*; do
    pid=${file##*/} folder=''
    { read -r folder <"$file"; } 2>/dev/null || continue
    is_running "$pid" || { rm -f -- "$file" && continue; } # its pipeline was killed
    if [ -e "$folder/record.pid" ] && [ ! -e "$folder/stopping" ] && kill -USR1 "$pid" 2>/dev/null; then code=0; fi
  done
  [ "$code" -eq 0 ] || die "$code" "nothing is being recorded"
}

is_running() { # <pid>: whether it is that of a script still, and not of somebody else by now
  kill -0 "$1" 2>/dev/null || return
  case $(ps -o command= -p "$1" 2>/dev/null) in *sh\ *) ;; *) return 1 ;; esac
}

choose_opening() {
  opens=0
  case ${A2I_OPEN:-} in
    0) ;;
    '') if [ -t 1 ] && [ "${A2I_JSON:-0}" = 0 ] && can_open; then opens=1; fi ;;
    *)
      [ "${A2I_JSON:-0}" = 0 ] || wrong "--json and --open exclude each other"
      can_open || die 69 "there is no desktop to open a picture on" "--no-open prints the path only"
      opens=1
      ;;
  esac
}

report() { # <exit code>: the error of the stage that failed, and what is kept of the run
  local name what remedy=''
  name=$(first_failure)
  if [ -s "$control/$name.error" ]; then
    cat -- "$control/$name.error" >&2
    { IFS= read -r what && IFS= read -r remedy; } <"$control/$name.error"
    what=${what#"$name: "} remedy=${remedy#  }
  else
    what="$name failed with exit code $1"
    [ "$1" -le 128 ] || what="$name was ended by signal $(($1 - 128))"
    printf 'pipeline: %s\n' "$what" >&2
  fi
  note_failure "$what" "$remedy"
  keep_recordings "$name" "$1"
}

main() {
  local code=0
  umask go-w # what others could write to, they could change
  locate
  output=$(absolute "${A2I_OUTPUT:-$root/outputs}")
  parse_options "$@"
  case $want in
    help) usage && return ;;
    version) sed -n 's/^__version__ = "\(.*\)"/audio-to-image \1/p' "$root/helpers/__init__.py" && return ;;
  esac
  if [ "$want" = stop ]; then
    stop_running
    return
  fi
  check_options
  case $(uname -s) in
    Darwin) . "$root/helpers/shell/platform/darwin.sh" ;;
    *) . "$root/helpers/shell/platform/linux.sh" ;;
  esac
  . "$root/helpers/shell/environment.sh"
  . "$root/helpers/shell/session.sh"
  . "$root/helpers/shell/supervisor.sh"
  choose_opening
  [ "${A2I_CONFIRM:-0}" = 0 ] || { : >/dev/tty; } 2>/dev/null || die 69 "--confirm asks on a terminal, and there is none"
  ensure_environment
  if [ "$want" = devices ]; then
    (ours helpers.listen.record --list-devices)
    return
  fi
  if [ "$want" = doctor ]; then
    (umask 077 && A2I_OUTPUT=$output ours helpers.doctor)
    return
  fi
  need_extras
  [ -n "${A2I_PROMPT+set}" ] || offer_speech_model
  open_session
  choose_stages
  [ -n "${A2I_PROMPT+set}" ] || [ "${#inputs[@]}" -gt 0 ] || announce_recording
  run_stages pipe || code=$?
  if [ "$aborted" -ne 0 ]; then
    A2I_JSON=0 keep_recordings pipeline "$code"
  elif [ "$code" -ne 0 ] && [ "$code" -ne 130 ]; then # 130: stopped before anything was heard, or taken back
    report "$code"
  fi
  return "$code"
}

main "$@"
