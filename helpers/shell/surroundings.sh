# shellcheck shell=bash
# What the caller's surroundings must not change in our scripts. They source this file first, and before it each starts
# itself again as `bash -p` (privileged mode): then no exported function, SHELLOPTS, BASHOPTS or BASH_ENV is in force.

set +o posix # from POSIXLY_CORRECT, or because the script was started as sh
unset POSIXLY_CORRECT
unset TMOUT # it ends each `read`, also that of the supervisor
unset FUNCNEST GLOBIGNORE EXECIGNORE BASH_COMPAT CDPATH
unset GREP_OPTIONS            # BSD grep still obeys it
unset __PYVENV_LAUNCHER__     # of a Mac's Python that started us: it would redirect ours

# A closed standard stream is /dev/null from here on. Otherwise the next file that is opened would get its number.
: 3>&2 || exec 2>/dev/null
{ : 3<&0; } 2>/dev/null || exec 0</dev/null
{ : 3>&1; } 2>/dev/null || exec 1>/dev/null

pwd -P >/dev/null 2>&1 || cd / || exit 66 # the folder that we were started in was deleted

absolute() { # <path>: the same path from any folder, with ~ and ~user as a shell expands them; - stays what it is
  local path=$1 user=${1%%/*}
  case $path in
    - | /*) ;;
    \$HOME | \$HOME/* | \$\{HOME\} | \$\{HOME\}/*) # in quotes, or in a file that no shell reads
      [ -e "$user" ] || path=${HOME:-$user}${path#"$user"}
      ;;
    \~ | \~/* | \~[a-zA-Z_]*/*) # in quotes, in a variable or after --output= no shell has expanded it
      case ${user#?} in
        *[!a-zA-Z0-9_.-]*) ;;
        *) [ "$user" != '~' ] && [ -e "$user" ] || path=$(eval "printf '%s' $user")${path#"$user"} ;;
      esac
      ;;
  esac
  case $path in
    - | /*) printf '%s' "$path" ;;
    *) printf '%s' "$PWD/$path" ;;
  esac
}

# Stages run in the folder of the repository, so a relative path in a variable must not be passed on.
make_absolute() { # <variable…>
  local name
  for name in "$@"; do
    case ${!name:-} in '' | /*) ;; *) export "$name=$(absolute "${!name}")" ;; esac
  done
  for name in XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_RUNTIME_DIR XDG_STATE_HOME; do
    case ${!name:-/} in /*) ;; *) unset "$name" ;; esac # as its specification says
  done
}

# shellcheck disable=SC2034 # for make_absolute
TOOLS_PATHS='TMPDIR HF_HOME HF_HUB_CACHE SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE'
