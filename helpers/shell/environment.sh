# shellcheck shell=bash disable=SC2154
# The Python environment of this repository: made once, in .venv, and repaired when it is not whole.
# Uses root, say, die and python_remedy of the script that sources it; sets python.

ensure_environment() {
  python=$root/.venv/bin/python
  environment_is_whole || make_environment
}

# What the environment was made from, and what it has to hold, a line each: a moved repository, changed pins, a new Python
# or a package that is gone make it anew; a package that somebody added (the extra cuda, say) does not. The shell reads it
# alone, in a millisecond.
environment_stamp() {
  printf '%s\n' "$root" "$(cksum <"$root/pyproject.toml")" "$root"/.venv/lib/python3.*/site-packages/*
}

environment_is_whole() {
  local made_in pins path
  [ -x "$python" ] && [ -r "$root/.venv/whole" ] || return 1
  {
    IFS= read -r made_in && IFS= read -r pins || return 1
    [ "$made_in" = "$root" ] && [ "$pins" = "$(cksum <"$root/pyproject.toml")" ] || return 1
    while IFS= read -r path; do [ -e "$path" ] || return 1; done
  } <"$root/.venv/whole"
}

base_python() { # prints a Python that serves: 3.10 to 3.13, with venv and pip
  local name
  for name in python3 python3.13 python3.12 python3.11 python3.10; do
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}

installed_extra() { # prints the extra that the environment has, so that a new one has it, too
  local package
  for package in "$root"/.venv/lib/python3.*/site-packages/diffusers; do
    [ ! -d "$package" ] || printf '[cuda]'
  done
}

make_environment() {
  local base extra code=0 log=$root/.venv/install.log
  base=$(base_python) || die 69 "no Python from 3.10 to 3.13 with its venv module was found" "$(python_remedy)"
  lock_environment
  if environment_is_whole; then # somebody else has just made it
    unlock_environment
    return
  fi
  extra=$(installed_extra)
  say "first run: installing the Python packages into .venv (about 450 MB on disk, a minute or two)"
  { rm -rf -- "$root/.venv" && mkdir -p -- "$root/.venv/tmp"; } 2>/dev/null || code=73
  [ "$code" -ne 0 ] || with_clock install_environment "$base" "$extra" || code=$?
  unlock_environment
  case $code in
    0) say "the Python packages are in place" ;;
    73) die 73 "cannot make the Python environment $root/.venv" "is the folder writable, and is there room? $(python_remedy)" ;;
    *)
      grep -i '^error' "$log" | tail -n 3 >&2
      die 69 "the Python packages could not be installed" "read $log, then run the same command again"
      ;;
  esac
}

install_environment() { # <Python> <extra>: all of it in one job, which ends well even if pipeline.sh is killed
  # As variables, for the pips that it starts, too; without them they write into the home directory, and leave their
  # working folders behind when they are interrupted.
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 TMPDIR=$root/.venv/tmp
  "$1" -m venv -- "$root/.venv" || return 73
  "$python" -m pip install -e "$root$2" || return 69
  rm -rf -- "$TMPDIR"
  environment_stamp >"$root/.venv/whole.part" && mv -- "$root/.venv/whole.part" "$root/.venv/whole"
}

with_clock() { # <command>: run it, its output into $log; a terminal sees that time passes. The lock is the command's
  local start=$SECONDS job code=0
  set -m # a group of its own, to end whatever it has started
  "$@" </dev/null >"$log" 2>&1 &
  job=$!
  set +m
  trap 'kill -TERM -- "-$job" 2>/dev/null; wait "$job"; unlock_environment; exit 130' INT TERM HUP
  printf '%s\n' "$job" >"$root/.venv.lock/pid"
  if [ -t 2 ] && [ "${A2I_QUIET:-0}" = 0 ]; then
    while kill -0 "$job" 2>/dev/null; do
      printf '\rpipeline: installing, %d s ' "$((SECONDS - start))" >&2
      sleep 1
    done
    printf '\r\033[K' >&2
  fi
  wait "$job" || code=$?
  trap - INT TERM HUP
  return "$code"
}

# A second first run waits for the first one, also when that was killed but still installs; a lock whose owner is gone
# is taken over.
lock_environment() {
  local owner waited=0
  until mkdir -- "$root/.venv.lock" 2>/dev/null; do
    [ -d "$root/.venv.lock" ] || die 73 "cannot write to $root" "copy the repository to a folder of your own"
    owner=$(cat -- "$root/.venv.lock/pid" 2>/dev/null)
    if [ -n "$owner" ] && kill -0 "$owner" 2>/dev/null; then
      [ "$waited" -ne 0 ] || say "another run is installing the Python packages; waiting for it"
    elif [ -n "$owner" ] || [ "$waited" -gt 1 ]; then # without a name: killed before it wrote it
      unlock_environment
      continue
    fi
    sleep 1
    waited=$((waited + 1))
  done
  printf '%s\n' "$$" >"$root/.venv.lock/pid"
}

unlock_environment() {
  rm -rf -- "$root/.venv.lock"
}

# Once, before the first run that listens: the hub gets five seconds to answer for the small speech model.
offer_speech_model() {
  local asked=$root/.cache/speech-model-offered
  if [ -n "${A2I_TRANSCRIBE:-}${A2I_WHISPER:-}" ] || [ -e "$asked" ]; then return; fi
  (umask 077 && mkdir -p -- "$root/.cache" && : >"$asked") 2>/dev/null || return 0
  (cd -- "$root" && "$python" download_model.py --offer) || true
}
