# shellcheck shell=bash disable=SC2154
# The Python environment .venv of this repository: created once, and repaired when a package is missing.
# Uses root, say, die, package_manager and no_package_manager of the script that sources it; sets python.
# pyproject.toml pins the base packages and the extras; .venv/extras lists the installed extras, one per line.

# For each start of a Python: no PYTHON… variable of the user counts (a PYTHONPATH may have another Python's packages), nor
# does site-packages in the home directory. A program of the user's own still gets the variables.
isolated=(-E -s -X utf8)
[ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || isolated=("${isolated[@]}" -B)

. "$root/helpers/shell/packages.sh"

no_python='no Python from 3.10 to 3.13 with its venv module was found'

ensure_environment() {
  python=$root/.venv/bin/python
  environment_is_whole || make_environment
}

# ---- checks, by the shell alone: they take a few milliseconds

# .venv/whole describes the complete environment. Lines 1 to 4: this folder, the checksum of pyproject.toml, the Python
# behind .venv/bin/python, and the names of all packages. Then a line for each pinned package: its dist-info folder (with
# name and version), and its other entries in site-packages. An upgrade of pip, or of a package that is not pinned,
# changes nothing of this.
environment_stamp() {
  local site names pin record part
  find_packages
  printf '%s\n' "$root" "$(cksum <"$root/pyproject.toml")"
  "$root/.venv/bin/python" -I -c 'import pathlib, sys; print(pathlib.Path(sys.executable).resolve())'
  printf '%s\n' "$names"
  shopt -s nocaseglob
  # shellcheck disable=SC2046 # names of extras
  for pin in $(requirements $(recorded_extras) | sed -n 's/==\([^;, ]*\).*/-\1/p'); do
    for record in "$site/$(package_name "${pin%-*}")-${pin##*-}"*.dist-info/RECORD; do # *: torch-2.13.0+cpu
      [ -r "$record" ] || continue
      part=${record%/RECORD}
      printf '%s' "${part##*/}"
      LC_ALL=C sed 's/^"//; s|[/,].*||' "$record" | LC_ALL=C sort -u | while IFS= read -r part; do
        case $part in *.dist-info | .. | __pycache__ | *[[:space:]]*) continue ;; esac
        [ ! -e "$site/$part" ] || printf ' %s' "$part"
      done
      printf '\n'
    done
  done
  shopt -u nocaseglob
}

environment_is_whole() {
  local made_in pins base wanted site names line name
  [ -x "$python" ] && [ -r "$root/.venv/whole" ] || return 1
  find_packages
  {
    IFS= read -r made_in && IFS= read -r pins && IFS= read -r base && IFS= read -r wanted || return 1
    [ "$made_in" = "$root" ] && [ "$pins" = "$(cksum <"$root/pyproject.toml")" ] && [ "$python" -ef "$base" ] || return 1
    for name in $wanted; do case " $names " in *" $name "*) ;; *) return 1 ;; esac done
    while IFS= read -r line; do
      for name in $line; do [ -e "$site/$name" ] || return 1; done
    done
  } <"$root/.venv/whole"
}

find_packages() { # sets site, the site-packages folder, and names, the names of its packages
  local path
  names=''
  for site in "$root"/.venv/lib/python3.*/site-packages; do break; done
  for path in "$site"/*.dist-info; do
    path=${path##*/} path=${path%%-*}
    case $path in pip | setuptools | wheel | audio_to_image | '*'*) ;; *) names="$names $path" ;; esac
  done
}

package_name() { printf '%s' "$1" | tr '.-' '__'; } # <name>: prints it as in the name of the dist-info folder

# ---- the requirements in pyproject.toml

pinned() { # prints a line for each requirement: base or the name of its extra, then the requirement
  awk '/^\[/ { section = $0; name = "" }
    section == "[project]" && /^dependencies = \[/ { name = "base" }
    section == "[project.optional-dependencies]" && /^[a-z0-9_-]+ = \[/ { name = $1 }
    name != "" {
      sub(/#.*/, "")
      while (match($0, /"[^"]*"/)) {
        print name, substr($0, RSTART + 1, RLENGTH - 2)
        $0 = substr($0, 1, RSTART - 1) substr($0, RSTART + RLENGTH)
      }
      if (/\]/) name = ""
    }' "$root/pyproject.toml"
}

requirements() { # [extra…]: prints the requirements of the base and of these extras, one per line
  pinned | awk -v "wanted=base $*" '{ list[$1] = list[$1] substr($0, length($1) + 2) "\n" }
    END {
      while (wanted != "") {
        name = wanted; sub(/ .*/, "", name)
        if (!sub(/^[^ ]* /, "", wanted)) wanted = ""
        if (done[name]++) continue
        count = split(list[name], items, "\n")
        for (i = 1; i < count; i++)
          if (sub(/^audio-to-image\[/, "", items[i])) { # an extra that includes others
            gsub(/[],]/, " ", items[i]); sub(/ $/, "", items[i])
            wanted = wanted == "" ? items[i] : wanted " " items[i]
          } else print items[i]
      }
    }'
}

recorded_extras() { [ ! -r "$root/.venv/extras" ] || cat -- "$root/.venv/extras"; }

# Extras that an earlier version or pip has installed count. Extras that were uninstalled with pip do not.
installed_extras() { # prints the installed extras, one per line
  local site names extra package some all
  find_packages
  names=$(printf '%s' "$names" | tr '[:upper:]' '[:lower:]')
  for extra in $(pinned | sed -n 's/ .*==.*//p' | sort -u); do
    [ "$extra" != base ] || continue
    some=0 all=1
    for package in $(pinned | sed -n "s/^$extra \([^ ]*\)==.*/\1/p"); do
      case " $names " in *" $(package_name "$package") "*) some=1 ;; *) all=0 ;; esac
    done
    if recorded_extras | grep -qx -- "$extra"; then
      [ "$some" = 0 ] && [ -e "$root/.venv/whole" ] || printf '%s\n' "$extra"
    elif [ "$all" = 1 ]; then
      printf '%s\n' "$extra"
    fi
  done
}

# ---- creating and repairing it

base_python() { # prints a suitable Python: 3.10 to 3.13, with venv and pip
  local name
  for name in python3 python3.13 python3.12 python3.11 python3.10; do
    if "$name" -I -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}

make_environment() {
  local base='' extras code=0 log=$root/.venv/install.log
  case $root in # venv refuses a colon, setuptools replaces $name, and the files that describe .venv have a line for each thing
    *$'\n'* | *:* | *\$*) die 69 "the name of this program's folder has a colon, a \$ or a line break: $root" "rename the folder" ;;
  esac
  is_repairable || base=$(base_python) ||
    die 69 "$no_python" "$(package_hint python)"
  lock_environment
  if environment_is_whole; then # another run has just finished it
    unlock_environment
    return
  fi
  extras=$(installed_extras)
  if [ -z "$base" ]; then
    forget_damaged
    if requirements_are_met && note_environment && environment_is_whole; then
      unlock_environment
      return
    fi
    say "repairing the Python packages in .venv"
    with_clock install_packages || code=$?
  else
    say "first run: installing the Python packages into .venv (about 450 MB on disk, one or two minutes)${extras:+, with the extras }${extras//$'\n'/, }"
    { mkdir -p -- "$root/.venv" && find "$root/.venv/" -mindepth 1 -maxdepth 1 ! -name extras -exec rm -rf -- {} + &&
      mkdir -- "$root/.venv/tmp" && keep_extras; } 2>/dev/null || code=73
    [ "$code" -ne 0 ] || with_clock install_environment "$base" || code=$?
  fi
  unlock_environment
  case $code in
    0) say "the Python packages are installed" ;;
    73)
      complain
      die 73 "cannot make the Python environment $root/.venv" "check that the folder is writable and the disk has space; the venv module may be missing: $(package_hint python)"
      ;;
    *)
      complain
      die 69 "the Python packages could not be installed" "read $log, then run the same command again"
      ;;
  esac
}

complain() { # prints what $log has of the cause
  { grep -i '^error' "$log" || tail -n 1 "$log"; } 2>/dev/null | tail -n 3 >&2
}

# Repairable: it was complete, in this folder, and its Python and pip still work. Otherwise it is rebuilt.
is_repairable() {
  local made_in
  [ -x "$python" ] && IFS= read -r made_in 2>/dev/null <"$root/.venv/whole" && [ "$made_in" = "$root" ] &&
    "$python" -I -m pip --version >/dev/null 2>&1
}

forget_damaged() { # deletes the dist-info of incomplete pinned packages, so that pip installs them again
  local site names line name
  find_packages
  sed 1,4d "$root/.venv/whole" | while IFS= read -r line; do
    for name in $line; do
      case $name in */*) continue ;; esac # written by an earlier version
      [ -e "$site/$name" ] || { rm -rf -- "${site:?}/${line%% *}" && break; }
    done
  done
}

requirements_are_met() { # whether pip has nothing to install; works without the network
  local answer
  # shellcheck disable=SC2086 # a list of names
  requirements $extras >"$root/.venv/requirements.txt" &&
    answer=$(own_pip install --dry-run --no-index -r "$root/.venv/requirements.txt" 2>/dev/null) || return 1
  case $answer in *'Would install'*) return 1 ;; esac
}

install_environment() { # <Python>: in one background job, which finishes even if pipeline.sh is killed
  "$1" -I -m venv -- "$root/.venv" || return 73
  install_packages
}

install_packages() { # installs the base and $extras into the existing environment
  local before=$root/.venv/whole.before list=${extras//$'\n'/,}
  export TMPDIR=$root/.venv/tmp # pip leaves temporary folders behind when it is interrupted
  mkdir -p -- "$TMPDIR" || return 73
  [ ! -e "$root/.venv/whole" ] || mv -- "$root/.venv/whole" "$before" # if we are killed from here on, the next run rebuilds it
  # as a dot: the name of the folder may have brackets, which pip would read as extras
  { cd -- "$root" && own_pip install -e ".${list:+[$list]}" && is_installed; } || {
    [ ! -e "$before" ] || mv -- "$before" "$root/.venv/whole"
    return 69
  }
  rm -rf -- "$TMPDIR" "$before"
  note_environment
}

own_pip() { "$python" -I "$root/helpers/install/pip.py" "$@"; } # [arguments]: without settings that steer it elsewhere
is_installed() { # whether pip has put this program into .venv, which it does last
  local path
  for path in "$root"/.venv/lib/python3.*/site-packages/audio_to_image-*.dist-info; do [ ! -d "$path" ] || return 0; done
  printf 'ERROR: pip has ended without an error, but has installed nothing into %s\n' "$root/.venv"
  return 1
}

keep_extras() { # before .venv is deleted: if we are killed then, the next run still knows the extras
  printf '%s' "$extras${extras:+$'\n'}" >"$root/.venv/extras.part" && mv -- "$root/.venv/extras.part" "$root/.venv/extras"
}

note_environment() {
  keep_extras && environment_stamp >"$root/.venv/whole.part" && mv -- "$root/.venv/whole.part" "$root/.venv/whole"
}

with_clock() { # <command>: runs it with its output in $log, and shows the elapsed seconds on a terminal. Its process id
  # goes into the lock, so that the lock survives our own death.
  local start=$SECONDS job code=0
  set -m # its own process group, so that its children can be killed
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

# If two first runs happen at once, the second waits, even if the first was killed but its job still installs. A lock
# whose owner has ended is taken over.
lock_environment() {
  local owner waited=0
  until mkdir -- "$root/.venv.lock" 2>/dev/null; do
    [ -d "$root/.venv.lock" ] || die 73 "cannot write to $root" "copy the repository to a folder of your own"
    owner=$(cat -- "$root/.venv.lock/pid" 2>/dev/null)
    if [ -n "$owner" ] && kill -0 "$owner" 2>/dev/null; then
      [ "$waited" -ne 0 ] || say "another run is installing the Python packages; waiting for it"
    elif [ -n "$owner" ] || [ "$waited" -gt 1 ]; then # no process id: killed before it wrote one
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

# ---- extras: optional packages (helpers/core/extras.py has their names and sizes)

need_extras() { # checks the extras that the options of pipeline.sh need
  if [ "${speech:-0}" = 1 ] && [ -z "${A2I_TRANSCRIBE:-}" ]; then
    case ${A2I_WHISPER:-} in
      */*) ;;
      faster-whisper*) need_extra faster-whisper ;;
      seamless*) need_extra seamless ;;
    esac
  fi
  if [ -n "${A2I_GENERATE:-}" ]; then return; fi
  case ${A2I_ENGINE:-} in torch | cuda) need_extra torch ;; esac
  [ "${A2I_SAFE:-0}" = 0 ] || need_extra torch
  [ "${A2I_SPEAKERS:-0}" = 0 ] || [ "${#inputs[@]}" = 0 ] || need_extra speakers
}

has_extra() { # <name>: in a complete environment
  recorded_extras | grep -qx -- "$1" || installed_extras | grep -qx -- "$1"
}

need_extra() { # <name>: if it is missing, asks the user; without a terminal, exits with 69 and the command to install it
  local name size purpose answer=''
  if has_extra "$1"; then return; fi
  IFS=$'\t' read -r name size purpose <<<"$(about_extra "$1")"
  if [ -t 0 ] && [ -t 2 ] && [ -z "${NONINTERACTIVE:-}" ]; then
    printf '%s needs more Python packages (%s, about %s). Install them now? [y/N] ' "$purpose" "$name" "$size" >&2
    read -r answer || answer=''
  fi
  case $answer in
    [yY]*) install_extra "$1" ;;
    *) die 69 "$purpose needs more Python packages ($name, about $size)" "Install them: ./shortcut_install.sh --extra $name" ;;
  esac
}

about_extra() { # <name or former name>: prints name, size and purpose, tab-separated; 64: no such extra
  local program=$root/.venv/bin/python
  [ -x "$program" ] || program=$(base_python) || die 69 "$no_python" "$(package_hint python)"
  (cd -- "$root" && "$program" "${isolated[@]}" -m helpers.core.extras "$1")
}

install_extra() { # <name>: into a complete environment
  local name size purpose extras code=0 log=$root/.venv/extra.log
  IFS=$'\t' read -r name size purpose <<<"$(about_extra "$1")"
  say "installing the extra $name into .venv (about $size)"
  lock_environment
  extras=$({ installed_extras && printf '%s\n' "$name"; } | sort -u)
  with_clock install_packages || code=$?
  unlock_environment
  [ "$code" -ne 0 ] || return 0
  complain
  die 69 "the extra $name could not be installed" "read $log, then run the same command again"
}
