#!/usr/bin/env bash
# Installs all that the pipe needs, binds it to a key, proves that it works; --uninstall takes every trace away again.
#
# It goes through the steps of helpers/install/: each knows its plan, whether it is done, how to do it and how to undo
# it. What is made outside this folder is noted in .cache/install/journal before it is made, so that whatever a cut
# leaves behind is known to the next run.
# shellcheck disable=SC1090,SC2154,SC2034 # the files of this system; they use and set these variables
set -u -o pipefail

STEPS='system ffmpeg environment models app shortcut selftest' # in this order; undone in the other

usage() {
  cat <<EOF
Usage: ./shortcut_install.sh [options]     install audio-to-image here and bind it to a key; again = update
      --key KEY         the key: ctrl, alt, shift, cmd (Super), joined by + with a letter, digit, space or f1 … f12
                        (${key:-ctrl+alt+i})
      --models NAME …   fetch these models of the catalogue (the speech and the image model that suit this machine)
      --no-models       fetch none: the built-in ones draw
      --no-shortcut     bind no key, write nothing outside this folder
      --extra NAME      install more Python packages into .venv: torch, convert or benchmark; and nothing else
  -y, --yes             ask nothing (nor does it with NONINTERACTIVE=1, or without a terminal)
      --dry-run         change nothing, show every step
      --status          what is installed
      --uninstall       take away all that was installed; keeps your pictures and the downloaded models …
      --pictures        … with --uninstall: the pictures in outputs, too
      --models          … with --uninstall: the downloaded models, too
  -h, --help            this text
It needs Python 3.10 to 3.13. FFmpeg is installed with Homebrew or the system's packages, sudo only for that.
EOF
}

# ---- what the steps use

say() { printf '%s\n' "$1" >&2; }

warn() { printf 'warning: %s\n' "$1" >&2; }

die() { # <exit code> <what is wrong> [what to do]
  printf 'shortcut_install: %s\n' "$2" >&2
  [ -z "${3:-}" ] || printf '  %s\n' "$3" >&2
  exit "$1"
}

act() { # <command…>: runs it; with --dry-run says so and does nothing
  if [ "$dry" = 0 ]; then "$@"; else say "   $(printf ' %q' "$@")"; fi
}

can_type() { [ -t 0 ] && [ -z "${NONINTERACTIVE:-}" ]; }

journalled() { grep -qxF -- "$1 $2" "$state/journal" 2>/dev/null; } # <kind> <value>

journal() { # <kind> <value>: noted before the thing is made
  [ "$dry" = 0 ] || return 0
  journalled "$1" "$2" || { mkdir -p -- "$state" && printf '%s %s\n' "$1" "$2" >>"$state/journal"; }
}

journal_of() { # <kind>: prints the values, the last first
  [ ! -e "$state/journal" ] || sed -n '1!G;h;$p' "$state/journal" | sed -n "s/^$1 //p"
}

make_folder() { # <path>: and its parents; those that are new go again when they are empty
  [ ! -d "$1" ] || return 0
  make_folder "$(dirname -- "$1")" && journal folder "$1" && act mkdir -- "$1"
}

backup_of() { printf '%s/before/%s' "$state" "$(printf '%s' "$1" | cksum | tr ' ' -)"; } # <path>

put() { # <from> <to>: a copy, whole or not at all
  cp -p -- "$1" "$(part_of "$2")" && mv -f -- "$(part_of "$2")" "$2"
}

part_of() { printf '%s/.%s.part' "$(dirname -- "$1")" "${1##*/}"; } # <path>: what a kill while writing it leaves

linked_file() { # <path>: prints where it really is, through any number of symbolic links; what is linked stays a link
  local path=$1 link
  while [ -L "$path" ]; do
    link=$(readlink -- "$path")
    case $link in /*) path=$link ;; *) path=$(dirname -- "$path")/$link ;; esac
  done
  printf '%s' "$path"
}

write_file() { # <path> <mode>: stdin becomes that file; one that was there comes back with --uninstall
  local path new=$state/new before
  path=$(linked_file "$1")
  if [ "$dry" != 0 ]; then
    cmp -s - "$path" || say "    write $path"
    cat >/dev/null
    return
  fi
  mkdir -p -- "$state/before" && cat >"$new" && chmod -- "$2" "$new" || return 73
  before=$(backup_of "$path")
  if [ -e "$path" ] && ! journalled file "$path" && ! cmp -s "$new" "$path"; then put "$path" "$before" || return 73; fi
  is_ours "$new" "$path" || cksum <"$new" >>"$before.ours"
  make_folder "$(dirname -- "$path")" && journal file "$path" || return 73
  cmp -s "$new" "$path" || put "$new" "$path" || return 73
  rm -f -- "$new"
}

is_ours() { grep -qxF -- "$(cksum <"$1")" "$(backup_of "$2").ours" 2>/dev/null; } # <content> <path it was written to>

restore_file() { # <path>: what was there before write_file; what somebody else has written since then stays
  local before
  before=$(backup_of "$1")
  [ ! -e "$(part_of "$1")" ] || act rm -f -- "$(part_of "$1")"
  if [ -f "$1" ] && is_ours "$1" "$1"; then
    if [ -e "$before" ]; then act put "$before" "$1"; else act rm -f -- "$1"; fi
  elif [ -f "$1" ] && ! cmp -s "$1" "$before"; then
    warn "$1 is no longer what was installed, and stays"
  fi
}

# ---- options

wrong() { die 64 "$1" "./shortcut_install.sh --help shows the options"; }

canonical_key() { # <key as a person writes it>: prints it as ctrl+alt+shift+cmd+i, the modifiers in this order
  local LC_ALL=C part rest held='' last='' name
  rest=$(printf '%s' "$1" | tr '[:upper:]' '[:lower:]')+
  while [ -n "$rest" ]; do
    part=${rest%%+*} rest=${rest#*+}
    [ -z "$last" ] || return 1
    case $part in
      ctrl | control) held="$held ctrl" ;;
      alt | opt | option) held="$held alt" ;;
      shift) held="$held shift" ;;
      cmd | command | super | win | meta) held="$held cmd" ;;
      [abcdefghijklmnopqrstuvwxyz0123456789] | space | f[1-9] | f1[0-2]) last=$part ;;
      *) return 1 ;;
    esac
  done
  case "$last$held" in # a letter alone, or with shift, is something that people type
    '' | ' '*) return 1 ;;
    f[1-9]* | *ctrl* | *alt* | *cmd*) ;;
    *) return 1 ;;
  esac
  for name in ctrl alt shift cmd; do
    case "$held " in *" $name "*) printf '%s+' "$name" ;; esac
  done
  printf '%s' "$last"
}

parse_options() {
  local option value
  want=install asked='' yes=0 dry=0 no_models=0 no_shortcut=0 with_models=0 with_pictures=0 models=() extra=''
  while [ $# -gt 0 ]; do
    option=$1
    shift
    case $option in
      --key=* | --models=* | --extra=*) # --key=f5 is --key f5
        value=${option#*=} option=${option%%=*}
        set -- "$value" ${1+"$@"}
        ;;
    esac
    case $option in
      --key)
        [ $# -gt 0 ] || wrong "--key needs a value"
        asked=$(canonical_key "$1") || wrong "'$1' is no key to bind; for example ctrl+alt+i or f5"
        shift
        ;;
      --models)
        with_models=1
        while [ $# -gt 0 ]; do
          case $1 in -*) break ;; '') wrong "--models: a name is empty" ;; esac
          models+=("$1")
          shift
        done
        ;;
      --extra)
        [ $# -gt 0 ] || wrong "--extra needs a name"
        [ "$want" = install ] || wrong "--extra excludes --$want"
        want=extra extra=$1
        shift
        ;;
      --no-models) no_models=1 ;;
      --no-shortcut) no_shortcut=1 ;;
      --pictures) with_pictures=1 ;;
      -y | --yes) yes=1 ;;
      --dry-run) dry=1 ;;
      --status | --uninstall)
        [ "$want" = install ] || [ "$want" = "${option#--}" ] || wrong "$option excludes --$want"
        want=${option#--}
        ;;
      -h | --help)
        usage
        exit
        ;;
      *) wrong "unknown option '$option'" ;;
    esac
  done
  if [ "$want" = install ]; then
    [ "$with_pictures" = 0 ] || wrong "--pictures goes with --uninstall"
    [ "$with_models" = 0 ] || [ "${#models[@]}" -gt 0 ] || wrong "--models needs a name; ./download_model.py lists them"
    [ "$with_models$no_models" != 11 ] || wrong "--models and --no-models exclude each other"
    [ -z "$asked" ] || [ "$no_shortcut" = 0 ] || wrong "--key and --no-shortcut exclude each other"
  else
    [ "$asked$no_models$no_shortcut" = 00 ] || wrong "--$want takes no options of the installation"
    [ "${#models[@]}" -eq 0 ] || wrong "--$want takes no names of models"
  fi
}

ask() { # <question> <answer without a word, y or n>; nobody there to answer: yes
  local answer
  if [ "$yes" = 1 ] || ! can_type; then return 0; fi
  printf '%s ' "$1" >&2
  read -r answer || answer=n
  case ${answer:-$2} in [yY]*) ;; *) return 1 ;; esac
}

# ---- the three things it does

lacks() { # <step>: prints the step without which it makes no sense, if that has failed
  case "$1 $failed " in
    models*' environment '* | selftest*' environment '*) printf environment ;;
    shortcut*' app '*) printf app ;;
  esac
}

note_failure() { # <step> <exit code>
  failed="$failed $1"
  if [ "$code" -eq 0 ]; then code=$(($2 < 64 ? 69 : $2)); fi
}

install() {
  local name todo='' line result failed='' code=0
  check_models
  for name in $steps; do
    if "${name}_is_done" </dev/null >/dev/null 2>&1; then
      [ "$dry" = 0 ] || say "==> $name: done already"
    else
      todo="$todo $name"
    fi
  done
  if [ -z "$todo" ]; then
    say "everything is in place"
    farewell
    return
  fi
  say "audio-to-image in $root:"
  for name in $todo; do
    line=$("${name}_plan" </dev/null)
    [ -z "$line" ] || printf '  %-12s %s\n' "$name" "$line" >&2
  done
  say "All of it goes again with ./shortcut_install.sh --uninstall."
  if [ "$dry" = 0 ]; then
    ask "Go on? [Y/n]" y || die 130 "nothing was changed"
    lock
    [ "$no_models" = 0 ] || : >"$root/.cache/speech-model-offered" # nor does the first recording fetch one
    case $todo in *shortcut*) printf '%s\n' "$key" >"$state/key" ;; esac # before: a cut run goes on with the same key
  fi
  for name in $todo; do
    line=$(lacks "$name") result=0
    say "==> $name${line:+: left out, it needs $line}"
    if [ -n "$line" ]; then result=69; else "${name}_do" || result=$?; fi
    if [ "$result" -ne 0 ]; then
      note_failure "$name" "$result"
      [ "$name" != system ] || break
    fi
  done
  if [ "$dry" != 0 ]; then return "$code"; fi
  if [ "$code" -eq 0 ]; then
    say "audio-to-image is installed"
    farewell
  else
    say "not done:$failed. The rest is; ./shortcut_install.sh goes on from here."
  fi
  return "$code"
}

farewell() {
  ffmpeg_caveat
  say "Run ./pipeline.sh and speak."
  case $steps in *shortcut*) say "The key: $(shortcut_status)" ;; esac
}

extra() { # --extra: more Python packages; the command itself is the yes
  local about name
  about=$(about_extra "$extra") || exit
  name=${about%%$'\t'*}
  if [ "$dry" != 0 ]; then
    environment_is_whole || environment_do
    act "$python" -m pip install -e "${root}[$name]"
    return
  fi
  lock
  (ensure_environment) || return
  if has_extra "$name"; then
    say "the extra $name is installed already"
  else
    (install_extra "$name") || return
    say "the extra $name is installed"
  fi
}

status() {
  local name
  for name in $STEPS; do printf '%-12s %s\n' "$name" "$("${name}_status" </dev/null)"; done
}

uninstall() {
  local name path failed='' code=0
  if [ "$with_models" = 0 ] && [ -n "$(model_folders)" ]; then offer_models=1; else offer_models=0; fi
  if [ -z "$(list_installed)" ]; then
    say "nothing is installed"
    return
  fi
  say "What will be removed:"
  list_installed >&2
  [ "$offer_models" = 0 ] || say "What stays without --models: $(model_folders | tr '\n' ' ')"
  [ "$with_pictures" = 1 ] || [ ! -d "$root/outputs" ] || say "What stays without --pictures: $root/outputs"
  if [ "$dry" = 0 ]; then
    ask "Remove it? [y/N]" n || die 130 "nothing was changed"
    if [ "$offer_models" = 1 ] && [ "$yes" = 0 ] && can_type; then
      if ask "The models, too? [y/N]" n; then with_models=1; fi
    fi
    lock
  fi
  for name in selftest shortcut app models environment ffmpeg; do
    "${name}_undo" || note_failure "$name" "$?"
  done
  while IFS= read -r path; do
    [ -z "$path" ] || restore_file "$path" || note_failure "$path" 73
  done <<<"$(journal_of file)"
  while IFS= read -r path; do
    # not empty: somebody else has put something there
    if [ -d "$path" ] && [ -z "$(ls -A -- "$path")" ]; then act rmdir -- "$path"; fi
  done <<<"$(journal_of folder)"
  if [ "$with_pictures" = 1 ] && [ -e "$root/outputs" ]; then act rm -rf -- "$root/outputs"; fi
  if [ "$code" -ne 0 ]; then
    say "not removed:$failed; then run ./shortcut_install.sh --uninstall again"
    return "$code"
  fi
  cd -- "$root" && act find . \( -name '.[!.]*' -o -name outputs \) -prune -o -name __pycache__ -prune -exec rm -rf {} +
  [ ! -e "$root/.cache" ] || act rm -rf -- "$root/.cache"
  [ "$dry" != 0 ] || say "audio-to-image is removed; this folder itself is yours to delete"
}

list_installed() {
  local path kind value
  for path in .venv .cache; do
    [ ! -e "$root/$path" ] || show_size "$root/$path"
  done
  [ "$with_pictures" = 0 ] || [ ! -d "$root/outputs" ] || show_size "$root/outputs"
  if [ "$with_models" = 1 ]; then model_folders | while IFS= read -r path; do show_size "$path"; done; fi
  while read -r kind value; do
    case $kind in
      file) [ ! -e "$value" ] || show_size "$value" ;;
      setting | line | package) printf '  %6s  %s %s\n' '' "$kind" "$value" ;;
    esac
  done <<<"$(cat -- "$state/journal" 2>/dev/null)"
}

show_size() { printf '  %6s  %s\n' "$(du -sh -- "$1" 2>/dev/null | cut -f 1)" "$1"; } # <path>

lock() { # one at a time; the lock of a run that was killed is taken over
  local owner
  (umask 077 && mkdir -p -- "$state") 2>/dev/null || die 73 "cannot write to $root" "copy the repository to a folder of your own"
  until ln -s "$$" "$state/lock" 2>/dev/null; do
    owner=$(readlink -- "$state/lock") || continue
    if kill -0 "$owner" 2>/dev/null; then die 69 "it is running already (process $owner)" "wait for it to end"; fi
    rm -f -- "$state/lock"
  done
  trap 'rm -f -- "$state/lock"' EXIT
  trap 'say ""; say "interrupted; ./shortcut_install.sh goes on from here"; exit 130' INT TERM HUP
}

main() {
  local name
  umask go-w # what others could write to, they could change
  root=$(CDPATH='' cd -- "$(dirname -- "$(linked_file "${BASH_SOURCE[0]}")")" && pwd -P)
  state=$root/.cache/install
  key=$(cat -- "$state/key" 2>/dev/null)
  parse_options "$@"
  key=${asked:-${key:-ctrl+alt+i}}
  home=${HOME:-}
  case $home in /*) ;; *) die 69 "HOME names no folder" "set it to your home directory" ;; esac
  case $root$home in *$'\n'*) die 69 "the name of a folder has a line break in it: $root" "move it" ;; esac
  if [ "$(id -u)" -eq 0 ] && [ -n "${SUDO_USER:-}" ]; then
    die 77 "not with sudo: what it makes would belong to root" "./shortcut_install.sh asks for sudo where it needs it"
  fi
  case ${A2I_MODELS:-} in '' | /* | '~'*) ;; *) export A2I_MODELS=$PWD/$A2I_MODELS ;; esac
  python=$root/.venv/bin/python
  export root python home key dry
  # nothing into the home directory
  export PYTHONDONTWRITEBYTECODE=1 HF_HOME="$root/.cache/huggingface"
  case $(uname -s) in
    Darwin) platform=darwin ;;
    *) platform=linux ;;
  esac
  . "$root/helpers/shell/platform/$platform.sh"
  . "$root/helpers/shell/environment.sh"
  . "$root/helpers/install/steps.sh"
  . "$root/helpers/install/$platform.sh"
  steps=''
  for name in $STEPS; do
    case $name$no_models$no_shortcut in models1? | app?1 | shortcut?1) ;; *) steps="$steps $name" ;; esac
  done
  "$want"
}

main "$@"
