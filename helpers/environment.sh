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
  local base extra log=$root/.venv/install.log
  base=$(base_python) || die 69 "no Python from 3.10 to 3.13 with its venv module was found" "$(python_remedy)"
  lock_environment
  if environment_is_whole; then # somebody else has just made it
    unlock_environment
    return
  fi
  extra=$(installed_extra)
  say "first run: installing the Python packages into .venv (about 450 MB on disk, a minute or two)"
  if ! { rm -rf -- "$root/.venv" && "$base" -m venv -- "$root/.venv"; } 2>/dev/null; then
    unlock_environment
    die 73 "cannot make the Python environment $root/.venv" "is the folder writable, and is there room? $(python_remedy)"
  fi
  # As variables, for the pips that it starts, too; without them they write into the home directory.
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
  if ! with_clock "$python" -m pip install -e "$root$extra"; then
    unlock_environment
    grep -i '^error' "$log" | tail -n 3 >&2
    die 69 "the Python packages could not be installed" "read $log, then run the same command again"
  fi
  environment_stamp >"$root/.venv/whole.part" && mv -- "$root/.venv/whole.part" "$root/.venv/whole"
  unlock_environment
  say "the Python packages are in place"
}

with_clock() { # <command>: run it, its output into $log; a terminal sees that time passes
  local start=$SECONDS job code=0
  "$@" >"$log" 2>&1 &
  job=$!
  trap 'kill "$job" 2>/dev/null; unlock_environment; exit 130' INT TERM HUP # a background job ignores Ctrl-C by itself
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

lock_environment() { # a second first run waits for the first one; a lock whose owner is gone is taken over
  local owner
  until mkdir -- "$root/.venv.lock" 2>/dev/null; do
    [ -d "$root/.venv.lock" ] || die 73 "cannot write to $root" "copy the repository to a folder of your own"
    owner=$(cat -- "$root/.venv.lock/pid" 2>/dev/null)
    if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then unlock_environment; else sleep 1; fi
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
  { mkdir -p -- "$root/.cache" && : >"$asked"; } 2>/dev/null || return 0
  (cd -- "$root" && "$python" download_model.py --offer) || true
}
