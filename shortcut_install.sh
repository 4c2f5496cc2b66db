#!/usr/bin/env bash
# Installs everything that the pipe needs, binds it to a hotkey, and runs a test; --uninstall removes it all again.
#
# The steps are in helpers/install/. Each step has functions for its plan, for whether it is done, to do it and to undo
# it. helpers/install/journal.sh notes everything that is made outside this folder.
# shellcheck disable=SC1090,SC2154,SC2034 # sourced by platform; those files use and set these variables
case ${BASH_VERSION:+$-} in *p*) ;; *) POSIXLY_CORRECT=1 && exec "${BASH:-bash}" -p -- "$0" "$@" ;; esac # surroundings.sh says why
set -u -o pipefail

STEPS='system ffmpeg environment models app shortcut selftest' # in this order; --uninstall goes backwards

usage() {
  cat <<EOF
Usage: ./shortcut_install.sh [options]     install audio-to-image here and bind it to a hotkey; run it again to update
      --key KEY         the hotkey: ctrl, alt, shift, cmd (Super), joined by + with a letter, digit, space or f1 … f12
                        (${key:-ctrl+alt+i})
      --models NAME …   download these models of the catalogue (default: a speech and an image model for this machine)
      --no-models       download no models, use the built-in ones
      --no-shortcut     bind no hotkey, write nothing outside this folder
      --extra NAME      only install more Python packages into .venv (docs/install.md has the names)
  -y, --yes             ask no questions (as with NONINTERACTIVE=1, or without a terminal)
      --dry-run         show every step, change nothing
      --status          show what is installed
      --uninstall       remove everything that was installed, except your pictures and the downloaded models
      --pictures        with --uninstall: also remove the pictures in outputs
      --models          with --uninstall: also remove the downloaded models
  -h, --help            show this text
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

act() { # <command…>: runs it; with --dry-run only prints it
  if [ "$dry" = 0 ]; then "$@"; else say "   $(printf ' %q' "$@")"; fi
}

can_type() { [ -t 0 ] && [ -z "${NONINTERACTIVE:-}" ]; }

linked_file() { # <path>: prints the file behind any number of symbolic links, so that links stay links
  local path=$1 link
  while [ -L "$path" ]; do
    link=$(readlink -- "$path")
    case $link in /*) path=$link ;; *) path=$(dirname -- "$path")/$link ;; esac
  done
  printf '%s' "$path"
}

# ---- options

wrong() { die 64 "$1" "./shortcut_install.sh --help shows the options"; }

canonical_key() { # <hotkey as typed>: prints it as ctrl+alt+shift+cmd+i, with the modifiers in this order
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
  case "$last$held" in # a letter alone, or with shift, is normal typing
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
        asked=$(canonical_key "$1") || wrong "'$1' is not a valid hotkey; valid are, for example, ctrl+alt+i and f5"
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
    [ "$asked$no_models$no_shortcut" = 00 ] || wrong "--$want cannot be combined with options of the installation"
    [ "${#models[@]}" -eq 0 ] || wrong "--$want takes no model names"
  fi
}

ask() { # <question> <default answer, y or n>; yes if nobody can answer
  local answer
  if [ "$yes" = 1 ] || ! can_type; then return 0; fi
  printf '%s ' "$1" >&2
  read -r answer || answer=n
  case ${answer:-$2} in [yY]*) ;; *) return 1 ;; esac
}

# ---- install, extra, status, uninstall

lacks() { # <step>: prints the step that it depends on, if that one has failed
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
  say "./shortcut_install.sh --uninstall removes all of it again."
  if [ "$dry" = 0 ]; then
    ask "Go on? [Y/n]" y || die 130 "nothing was changed"
    lock
    [ "$no_models" = 0 ] || : >"$root/.cache/speech-model-offered" # the first recording must not download one either
    case $todo in *shortcut*) printf '%s\n' "$key" >"$state/key" ;; esac # before the steps: after an interruption, the next run uses the same key
  fi
  for name in $todo; do
    line=$(lacks "$name") result=0
    say "==> $name${line:+: skipped, it needs $line}"
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
    say "failed:$failed. The other steps are done; run ./shortcut_install.sh again to continue."
  fi
  return "$code"
}

farewell() {
  ffmpeg_caveat
  say "Run ./pipeline.sh and speak."
  case $steps in *shortcut*) say "The key: $(shortcut_status)" ;; esac
}

extra() { # --extra: more Python packages; asks no question, since the user named the extra
  local about name
  about=$(about_extra "$extra") || exit
  name=${about%%$'\t'*}
  if [ "$dry" != 0 ]; then
    environment_is_whole || environment_do
    act "$python" -m pip install -e ".[$name]"
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
  [ "$offer_models" = 0 ] || say "Kept without --models: $(model_folders | tr '\n' ' ')"
  [ "$with_pictures" = 1 ] || [ ! -d "$root/outputs" ] || say "Kept without --pictures: $root/outputs"
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
    # not empty: others have files in it
    if [ -d "$path" ] && [ -z "$(ls -A -- "$path")" ]; then act rmdir -- "$path"; fi
  done <<<"$(journal_of folder)"
  if [ "$with_pictures" = 1 ] && [ -e "$root/outputs" ]; then act rm -rf -- "$root/outputs"; fi
  if [ "$code" -ne 0 ]; then
    say "not removed:$failed; fix the errors above, then run ./shortcut_install.sh --uninstall again"
    return "$code"
  fi
  cd -- "$root" && act find . \( -name '.[!.]*' -o -name outputs \) -prune -o -name __pycache__ -prune -exec rm -rf {} +
  [ ! -e "$root/.cache" ] || act rm -rf -- "$root/.cache"
  [ "$dry" != 0 ] || say "audio-to-image is removed; you can delete this folder now"
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

lock() { # one installer at a time; takes over the lock of a run that was killed
  local owner
  (umask 077 && mkdir -p -- "$state") 2>/dev/null || die 73 "cannot write to $root" "copy the repository to a folder of your own"
  until ln -s "$$" "$state/lock" 2>/dev/null; do
    owner=$(readlink -- "$state/lock") || continue
    if kill -0 "$owner" 2>/dev/null; then die 69 "another installer is running (process $owner)" "wait for it to end"; fi
    rm -f -- "$state/lock"
  done
  trap 'rm -f -- "$state/lock"' EXIT
  trap 'say ""; say "interrupted; run ./shortcut_install.sh again to continue"; exit 130' INT TERM HUP
}

main() {
  local name
  umask go-w # other users must not be able to change these files
  root=$(CDPATH='' cd -- "$(dirname -- "$(linked_file "${BASH_SOURCE[0]}")")" && pwd -P)
  state=$root/.cache/install
  key=$(cat -- "$state/key" 2>/dev/null)
  parse_options "$@"
  . "$root/helpers/shell/surroundings.sh"
  key=${asked:-${key:-ctrl+alt+i}}
  home=${HOME:-}
  case $home in /*) ;; *) die 69 "HOME is not an absolute path" "set it to your home directory" ;; esac
  case $root$home in *$'\n'*) die 69 "a folder name contains a line break: $root" "rename or move the folder" ;; esac
  if [ "$(id -u)" -eq 0 ] && [ -n "${SUDO_USER:-}" ]; then
    die 77 "do not run it with sudo: the files would belong to root" "run ./shortcut_install.sh; it uses sudo where necessary"
  fi
  # shellcheck disable=SC2086 # a list of names
  make_absolute A2I_MODELS $TOOLS_PATHS
  python=$root/.venv/bin/python
  export root python home key dry
  export HF_HOME="$root/.cache/huggingface" # write no caches into the home directory
  case $(uname -s) in
    Darwin) platform=darwin ;;
    *) platform=linux ;;
  esac
  . "$root/helpers/shell/platform/$platform.sh"
  . "$root/helpers/shell/environment.sh"
  isolated=("${isolated[@]}" -B) # nor bytecode beside the program
  . "$root/helpers/install/journal.sh"
  . "$root/helpers/install/steps.sh"
  . "$root/helpers/install/$platform.sh"
  steps=''
  for name in $STEPS; do
    case $name$no_models$no_shortcut in models1? | app?1 | shortcut?1) ;; *) steps="$steps $name" ;; esac
  done
  "$want"
}

main "$@"
