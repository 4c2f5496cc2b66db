# shellcheck shell=bash disable=SC2154,SC2034
# Checks all settings together, before anything starts: values from the environment, options that exclude each other,
# and whether the models and files exist.
# Uses root, inputs, given, absolute, wrong, die, ours and ensure_environment of pipeline.sh, find_option and check_value.

check_options() { # sets speech: whether there is sound to recognise
  local name
  for name in $VARIABLES; do # what comes from the environment; an option has been checked already
    if [ -z "${!name:-}" ] || ! find_option "$name"; then continue; fi
    check_value "$name" "${!name}"
    case $kind:${!name} in
      *:/*) ;;
      folder:* | place:*/* | place:\~) export "$name=$(absolute "${!name}")" ;; # a name without a slash is in the catalogue or on PATH
    esac
  done
  [ -n "${A2I_PROMPT:-}" ] || unset A2I_PROMPT
  [ -n "${A2I_AGAIN:-}" ] || unset A2I_AGAIN
  [ "${#inputs[@]}" -gt 0 ] || [ -n "${A2I_PROMPT+set}" ] || [ -z "${A2I_INPUT:-}" ] || inputs=("$(absolute "$A2I_INPUT")")
  speech=1
  if [ -n "${A2I_PROMPT+set}" ]; then
    speech=0
    [ "${#inputs[@]}" -eq 0 ] || wrong "--prompt and --input exclude each other"
    A2I_PROMPT=$(printf '%s' "$A2I_PROMPT" | LC_ALL=C tr '\n\r' '  ') # one line is one picture
    case $A2I_PROMPT in *[![:space:]]*) ;; *) wrong "--prompt is empty" ;; esac
  fi
  if [ -n "${A2I_AGAIN+set}" ]; then
    [ "${A2I_TALK:-0}" != 0 ] || speech=0
    [ -z "${A2I_PROMPT+set}" ] || [ "${A2I_TALK:-0}" != 0 ] || wrong "--again and --prompt exclude each other"
    [ "${#inputs[@]}" -eq 0 ] || wrong "--again and --input exclude each other"
    A2I_AGAIN=$(absolute "$A2I_AGAIN")
    [ -f "$A2I_AGAIN" ] || die 66 "there is no picture $A2I_AGAIN" "--again takes a PNG file that this program has drawn"
  fi
  for name in ${inputs[@]+"${inputs[@]}"}; do
    [ "$name" != - ] || [ "${#inputs[@]}" -eq 1 ] || wrong "--input - stands alone"
    if [ "$name" = - ] && [ -d /dev/stdin ]; then die 66 "stdin is a folder" "Pipe audio into it, or give a file."; fi
  done
  if [ "${A2I_TALK:-0}" != 0 ]; then
    export A2I_LOOP=1 # for the stages that hear
    [ "${A2I_PROMPT--}" = - ] || wrong "--talk and --prompt exclude each other; --prompt - takes the lines of stdin"
    [ "${#inputs[@]}" -eq 0 ] || wrong "--talk and --input exclude each other"
    [ "${A2I_FIXED_WINDOW:-0}" = 0 ] || wrong "--talk and --fixed-window exclude each other"
    [ -z "${A2I_GENERATE:-}" ] || wrong "--talk draws itself: leave A2I_GENERATE out"
    [ -z "${A2I_ENRICH:-}" ] || wrong "--talk takes what you say as it is: leave A2I_ENRICH out"
  elif [ "${A2I_LOOP:-0}" != 0 ]; then
    [ -z "${A2I_PROMPT+set}" ] || wrong "--loop and --prompt exclude each other"
    [ -z "${A2I_AGAIN+set}" ] || wrong "--loop and --again exclude each other"
    [ "${#inputs[@]}" -eq 0 ] || wrong "--loop and --input exclude each other"
    [ "${A2I_FIXED_WINDOW:-0}" = 0 ] || wrong "--loop and --fixed-window exclude each other"
  fi
  note_unused
  case ${A2I_MODEL:-} in *.safetensors | *.ckpt | *.gguf | *.mlpackage) A2I_MODEL=$(absolute "$A2I_MODEL") ;; esac
  case ${A2I_WHISPER:-} in *.bin | *.gguf | *.pt) A2I_WHISPER=$(absolute "$A2I_WHISPER") ;; esac
}

check_temporary() { # before anything is installed or recorded
  local folder=${TMPDIR:-/tmp} name=${TMPDIR:+TMPDIR: }
  [ -d "$folder" ] || die 73 "${name}there is no folder $folder" "${name:+Unset TMPDIR, or }make the folder"
  if ! [ -w "$folder" ] || ! [ -x "$folder" ]; then
    die 73 "${name}cannot write to $folder" "set TMPDIR to a folder of your own"
  fi
}

note_unused() { # says which options of the command line have no effect together with the others
  if [ "$speech" = 0 ]; then
    unused 'no sound is needed' TIME SILENCE FIXED_WINDOW DEVICE LANGUAGE TRANSLATE WHISPER CONFIRM SPEAKERS
  elif [ "${#inputs[@]}" -gt 0 ]; then
    unused 'the microphone is not used' SILENCE FIXED_WINDOW DEVICE
  else
    unused 'only a file has several speakers' SPEAKERS
    [ "${A2I_FIXED_WINDOW:-0}" = 0 ] || unused 'all of the time is recorded' SILENCE
  fi
}

unused() { # <why> <options by their variables, without A2I_>; variables of the environment may be for other runs
  local why=$1 name rest flags=''
  shift
  for name in "$@"; do
    case $given in
      *" A2I_$name="*)
        rest=${given##*" A2I_$name="}
        flags="$flags ${rest%% *}"
        ;;
    esac
  done
  [ -z "$flags" ] || say "without effect here, because $why:$flags"
}

check_names() { # whether the models and the engine exist that our own stages will ask for
  if [ -z "${A2I_GENERATE:-}" ]; then
    case ${A2I_MODEL:-} in
      */*) [ -d "$A2I_MODEL" ] || ask_python image "$A2I_MODEL" ;;
      *) check_model image "${A2I_MODEL:-}" ;;
    esac
    case ${A2I_ENGINE:-} in
      '' | coreml | torch | openvino | apple | cpu | cuda) ;;
      *) ask_python engine "$A2I_ENGINE" ;;
    esac
  fi
  if [ "$speech" = 1 ] && [ -z "${A2I_TRANSCRIBE:-}" ]; then
    case ${A2I_WHISPER:-} in
      builtin) ;;
      */*) [ -e "$A2I_WHISPER" ] || ask_python whisper "$A2I_WHISPER" ;;
      *) check_model whisper "${A2I_WHISPER:-}" ;;
    esac
  fi
}

check_model() { # <kind> <name>: a good name costs no start of Python, which takes a tenth of a second
  local catalogue
  [ -n "$2" ] || return 0
  catalogue=$(cat -- "$root/models/catalog.toml" 2>/dev/null)
  case $catalogue in
    *"
[models.$2]
kind = \"$1\""* | *"
[models.\"$2\"]
kind = \"$1\""*) ;;
    *) ask_python "$1" "$2" ;;
  esac
}

ask_python() { # <kind> <name>: ends with its error where the name is wrong
  ensure_environment
  (ours helpers.shell.names "$1" "$2") || exit
}
