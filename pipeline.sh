#!/usr/bin/env bash
# You speak; a moment later the picture is there.
#
#   record | transcribe | remove_parentheses | say | confirm | enrich | generate
#
# All stages start at the same moment and load their models while the microphone is still open. After the last word, only
# the work that needs the words is left. This script reads the options, makes a working folder, runs the pipe and returns
# its exit code. It knows nothing of a stage but the contract in docs/stages.md.
# shellcheck disable=SC2154 # load reads the files of helpers/shell, which set python, session, control and aborted
case ${BASH_VERSION:+$-} in *p*) ;; *) POSIXLY_CORRECT=1 && exec "${BASH:-bash}" -p -- "$0" "$@" ;; esac # surroundings.sh says why
set -u -o pipefail

usage() {
  cat <<EOF
Usage: ./pipeline.sh [options]      speak; the picture's path is printed, the picture opens
What is drawn: what you say, or
  -p, --prompt TEXT     draw TEXT, no audio     --plain-prompt   brackets in it are ordinary text
  -i, --input FILE      draw what a recording says (any audio or video; - is stdin); may be repeated
      --again FILE      draw a picture again, from the settings in its PNG file
      --loop            keep listening: a picture of each thing you say, until "stop listening"
      --talk            change the picture: "darker", "number two", "make it blue", "back"
      --confirm         show the text first; Enter, or 3 seconds, draw it     --say   read it aloud
Speech
  -t, --time SECONDS    longest recording (microphone ${A2I_TIME:-10}, files ${A2I_TIME:-all}); it ends when you stop speaking
      --silence SECONDS silence that ends it (${A2I_SILENCE:-0.8})     --fixed-window   record all of the time
      --stop            end the recording that is running, as Ctrl-C does
      --speakers        of a file: a picture of what each person says (more packages are needed)
  -d, --device NAME     microphone (${A2I_DEVICE:-default})     --list-devices    name the microphones
  -l, --language CODE   spoken language, or auto (${A2I_LANGUAGE:-en})     --translate, --no-translate   to English
  -w, --whisper NAME    speech model: a name of the catalogue or a file (${A2I_WHISPER:-by language})
Picture
  -m, --model NAME      image model: a name or a file (${A2I_MODEL:-by machine})     --lora NAME[:WEIGHT]   LoRA
  -n, --steps N         sampling steps (${A2I_STEPS:-by model})     --sampler NAME   (${A2I_SAMPLER:-by model})
  -g, --guidance X      guidance scale (${A2I_GUIDANCE:-by model})     -s, --seed N    (${A2I_SEED:-random})
  -c, --count N         number of pictures (${A2I_COUNT:-1})     --size WxH   pixels (${A2I_SIZE:-by model})
      --negative TEXT   what should not be in it     --decoder KIND   full or small (${A2I_DECODER:-by machine})
      --safe            leave out what the safety filter flags     --enrich   more words, by rule
Result
  -o, --output DIR      where runs are kept (${A2I_OUTPUT:-outputs})
      --open, --no-open show the picture (when run from a terminal)     --json   run.json instead
  -q, --quiet           only errors          -v, --verbose   tracebacks and timings
      --doctor          check this machine, and say what to do
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

say() { [ "${A2I_QUIET:-0}" != 0 ] || printf 'pipeline: %s\n' "$1" >&2; }

die() { # <exit code> <what is wrong> [what to do]
  printf 'pipeline: %s\n' "$(printable "$2")" >&2
  [ -z "${3:-}" ] || printf '  %s\n' "$(printable "$3")" >&2
  note_failure "$2" "${3:-}"
  exit "$1"
}

note_failure() { # <what is wrong> <what to do>: writes an event for the hotkey, which reads $A2I_EVENTS
  local line
  [ -n "${A2I_EVENTS:-}" ] || return 0
  line=$(printf '{"stage": "pipeline", "event": "failed", "message": "%s", "remedy": "%s"}' \
    "$(printable "$1" | sed 's/[\\"]/\\&/g')" "$(printable "$2" | sed 's/[\\"]/\\&/g')")
  if [ -p "$A2I_EVENTS" ]; then
    printf '%s\n' "$line" 1<>"$A2I_EVENTS" # read and write: opening does not wait for a reader
  else
    printf '%s\n' "$line" >>"$A2I_EVENTS"
  fi 2>/dev/null
}

printable() { # <text>: without control and direction characters, as bytes of UTF-8: a message may quote an option's value
  printf '%s' "$1" | LC_ALL=C tr '\001-\037\177' ' ' |
    LC_ALL=C sed $'s/\302[\200-\237]/ /g; s/\330\234/ /g; s/\342\200[\216\217\250-\256]/ /g; s/\342\201[\246-\251]/ /g'
}

# ---- options

wrong() { die 64 "$1" "./pipeline.sh --help shows the options"; }

load() { # <file of helpers/shell>: its functions
  [ -r "$root/helpers/shell/$1" ] || die 69 "the file helpers/shell/$1 is missing" "git restore helpers brings it back"
  # shellcheck source=/dev/null
  . "$root/helpers/shell/$1"
}

parse_options() {
  local flag value attached
  inputs=() want=picture given=' '
  while [ $# -gt 0 ]; do
    flag=$1 value='' attached=0
    case $1 in --*=*) flag=${1%%=*} value=${1#*=} attached=1 ;; esac # --time=5 is --time 5
    shift
    variable='' kind=switch
    case $flag in
      --list-devices) want=devices ;;
      --stop) want=stop ;;
      --doctor) want=doctor ;;
      -h | --help) want=help ;;
      -V | --version) want=version ;;
      --no-open) A2I_OPEN=0 ;;
      --enrich) export A2I_STYLE=auto ;;
      --no-translate) export A2I_TRANSLATE=0 ;;
      -*) find_option "$flag" || wrong "unknown option '$flag'" ;;
      *) wrong "unknown option '$flag': a recording is given with --input, a text with --prompt" ;;
    esac
    if [ "$kind" = switch ]; then
      [ "$attached" = 0 ] || wrong "$flag takes no value"
      value=1
    else
      if [ "$attached" = 0 ]; then
        [ $# -gt 0 ] || wrong "$flag needs a value"
        value=$1
        shift
      fi
      [ -n "$value" ] || [ "$flag" = --negative ] || wrong "$flag needs a value"
      check_value "$flag" "$value"
    fi
    given="$given$variable=$flag " # in the order of the command line
    case $variable in
      '') ;; # an option of this script
      A2I_PROMPT) A2I_PROMPT=$value ;;
      A2I_INPUT) inputs+=("$(absolute "$value")") ;;
      A2I_LORA) # may be repeated, and then replaces the variable of the environment
        case ${given%"$variable=$flag "} in *" A2I_LORA="*) value=$A2I_LORA,$value ;; esac
        export A2I_LORA="$value"
        ;;
      A2I_OUTPUT) output=$(absolute "$value") ;;
      *) export "$variable=$value" ;;
    esac
  done
}

# ---- the stages: ours, or the user's own program

ours() { # <module> [arguments]: one of our stages; from the root, so that no file of the user's folder is imported
  trap '' INT # a stage that has a use for SIGINT takes it when it is ready for it
  cd -- "$root" && exec "$python" "${isolated[@]}" -m "$@"
}

foreign() { # <stage> <program> [arguments]: the user's program; it gets and gives lines without our marks
  local folder=$PWD
  cd -- "$root" && exec "$python" "${isolated[@]}" -m helpers.shell.foreign "$1" "$folder" "${@:2}"
}

choose_stages() {
  RECORD=(ours helpers.listen.record)
  TRANSCRIBE=(ours helpers.listen.transcribe)
  REMOVE_PARENTHESES=(ours remove_parentheses)
  ENRICH=()
  GENERATE=(ours helpers.draw.generate)
  [ "${A2I_TALK:-0}" = 0 ] || GENERATE=(ours helpers.talk)
  export A2I_OUTPUT=$output A2I_SESSION=$session A2I_CONTROL=$control PYTHONUTF8=1
  if named GENERATE; then GENERATE=(foreign generate "${program[@]}"); fi
  if [ "$speech" = 0 ]; then return; fi
  if [ "${#inputs[@]}" -le 1 ] && named RECORD; then RECORD=("${program[@]}"); fi
  if named TRANSCRIBE; then TRANSCRIBE=(foreign transcribe "${program[@]}"); fi
  if named REMOVE_PARENTHESES; then REMOVE_PARENTHESES=(foreign remove_parentheses "${program[@]}"); fi
  if named ENRICH; then ENRICH=(foreign enrich "${program[@]}"); fi
}

named() { # <stage>: whether A2I_<stage> names a program; sets program to it and its options
  local variable=A2I_$1
  read -r -a program <<<"${!variable:-}" # words are split at spaces, and nothing is expanded
  [ "${#program[@]}" -gt 0 ] || return 1
  case ${program[0]} in \~* | \$HOME/*) program[0]=$(absolute "${program[0]}") ;; esac
  type -P -- "${program[0]}" >/dev/null || die 69 "there is no program '${program[0]}'" "A2I_$1 names it; without A2I_$1 our own is used"
}

pipe() {
  if [ "${A2I_TALK:-0}" != 0 ] && [ -n "${A2I_PROMPT+set}" ]; then
    generate # what is typed arrives on stdin
  elif [ -n "${A2I_PROMPT+set}" ]; then
    printf '\0360 typed\037%s\n' "$A2I_PROMPT" | generate # the mark of a typed line: helpers/core/lines.py
  elif [ -n "${A2I_AGAIN+set}" ] && [ "${A2I_TALK:-0}" = 0 ]; then
    generate </dev/null
  elif [ "${#inputs[@]}" -gt 1 ]; then # a stream has no marks between recordings, so transcribe opens the files
    stage transcribe "${TRANSCRIBE[@]}" "${inputs[@]}" </dev/null | words
  elif [ "${#inputs[@]}" -eq 1 ]; then
    stage record "${RECORD[@]}" --input "${inputs[0]}" | stage transcribe "${TRANSCRIBE[@]}" | words
  else
    stage record "${RECORD[@]}" </dev/null | stage transcribe "${TRANSCRIBE[@]}" | words
  fi
}

words() {
  stage remove_parentheses "${REMOVE_PARENTHESES[@]}" |
    if [ "${A2I_SAY:-0}" != 0 ]; then stage say ours helpers.speak.say | confirm; else confirm; fi
}

confirm() {
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

# A pipeline that listens writes a file .cache/recording/PID with its control folder and its session. --stop, and a second
# press of the hotkey, find it there.
announce_recording() {
  { mkdir -p -- "$root/.cache/recording" && printf '%s\n' "$control" "$session" >"$root/.cache/recording/$$"; } 2>/dev/null
}

stop_running() {
  local file pid folder code=66
  for file in "$root"/.cache/recording/*; do
    pid=${file##*/} folder=''
    { read -r folder <"$file"; } 2>/dev/null || continue
    is_running "$pid" || { rm -f -- "$file" && continue; } # a pipeline that was killed left it
    if [ -e "$folder/record.pid" ] && [ ! -e "$folder/stopping" ] && kill -USR1 "$pid" 2>/dev/null; then code=0; fi
  done
  [ "$code" -eq 0 ] || die "$code" "nothing is being recorded"
}

is_running() { # <pid>: whether a shell script still has this pid, and not another program by now
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

report() { # <exit code>: shows the error of the stage that failed, and keeps the recordings
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
  umask go-w # a file that others can write to, they can change
  locate
  load surroundings.sh
  # shellcheck disable=SC2086 # a list of names
  make_absolute HOME A2I_EVENTS $TOOLS_PATHS
  output=$(absolute "${A2I_OUTPUT:-$root/outputs}")
  load options.sh
  load values.sh
  load checks.sh
  parse_options "$@"
  case $want in
    help)
      usage
      return
      ;;
    version)
      sed -n 's/^__version__ = "\(.*\)"/audio-to-image \1/p' "$root/helpers/__init__.py"
      return
      ;;
    stop)
      stop_running
      return
      ;;
  esac
  check_options
  check_temporary
  case $(uname -s) in
    Darwin) load platform/darwin.sh ;;
    *) load platform/linux.sh ;;
  esac
  load environment.sh
  load session.sh
  load supervisor.sh
  choose_opening
  [ "${A2I_CONFIRM:-0}" = 0 ] || { : >/dev/tty; } 2>/dev/null || die 69 "--confirm asks on a terminal, and there is none"
  [ "$want" != picture ] || check_names
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
  if [ "$speech" = 1 ]; then
    offer_speech_model
    decide_translation
  fi
  open_session
  choose_stages
  if [ "$speech" = 1 ] && [ "${#inputs[@]}" -eq 0 ]; then announce_recording; fi
  run_stages pipe || code=$?
  if [ "$aborted" -ne 0 ]; then
    A2I_JSON=0 keep_recordings pipeline "$code"
  elif [ "$code" -ne 0 ] && [ "$code" -ne 130 ]; then # 130: stopped before anything was heard, or taken back
    report "$code"
  fi
  return "$code"
}

main "$@"
