# shellcheck shell=bash disable=SC2154
# Checks the value of an option, with the same rules as helpers/core/settings.py. Bash has whole numbers only.
# Uses find_option of options.sh, and wrong of the script that sources it.

check_value() { # <flag or variable, as the user wrote it> <value>: of the option that find_option has found
  case $kind in
    whole)
      if ! is_whole "$2" || ! at_most "$low" "$2" || ! at_most "$2" "$high"; then
        wrong "$1: not a whole number from $low to $high: '$2'"
      fi
      ;;
    seed)
      if ! is_seed "$2"; then wrong "$1: not a whole number from 0 to $high, or -1 for any: '$2'"; fi
      ;;
    number)
      if ! is_number "$2" || ! at_most "$low" "$2" || ! at_most "$2" "$high"; then
        wrong "$1: not a number from $low to $high: '$2'"
      fi
      ;;
    size)
      if ! is_size "$2"; then wrong "$1: not WIDTHxHEIGHT from ${low}x$low to ${high}x$high: '$2'"; fi
      ;;
    language)
      if ! is_language "$2"; then wrong "$1: not a language code such as en or de, and not auto: '$2'"; fi
      ;;
    choice)
      if ! is_choice "$2"; then wrong "$1: not one of ${choices// /, }: '$2'"; fi
      ;;
  esac
}

is_whole() { # at most ten digits, so that no number is too large for the shell
  case $1 in '' | *[!0123456789]* | ???????????*) return 1 ;; esac
}

is_seed() { # -1, or up to high, which is too large for the shell: numbers of as many digits are compared as texts
  local digits=$1
  case $1 in -1) return 0 ;; '' | *[!0123456789]* | ?????????????????????*) return 1 ;; esac
  [ "${#digits}" -lt "${#high}" ] || ! (LC_ALL=C && [[ $digits > $high ]])
}

is_number() { # digits with one point at most, ten digits on each side
  local whole=${1%%.*}
  case $1 in '' | . | *.*.* | *[!0123456789.]*) return 1 ;; esac
  [ "${#whole}" -le 10 ] && [ "$((${#1} - ${#whole}))" -le 11 ]
}

at_most() { # <number> <number>: whether the first one is not larger
  local a=${1%%.*} b=${2%%.*} c='' d=''
  case $1 in *.*) c=${1#*.} ;; esac
  case $2 in *.*) d=${2#*.} ;; esac
  a=$((10#${a:-0})) b=$((10#${b:-0})) # 10#: a leading zero does not mean octal
  c=${c}0000000000 d=${d}0000000000
  [ "$a" -lt "$b" ] || { [ "$a" -eq "$b" ] && [ "$((10#${c:0:10}))" -le "$((10#${d:0:10}))" ]; }
}

is_size() { # 512x768
  local side
  case $1 in *x*) ;; *) return 1 ;; esac
  for side in "${1%%x*}" "${1#*x}"; do
    case $side in ??????*) return 1 ;; esac
    is_whole "$side" && at_most "$low" "$side" && at_most "$side" "$high" || return 1
  done
}

is_choice() {
  local choice
  for choice in $choices; do
    [ "$choice" != "$1" ] || return 0
  done
  return 1
}

is_language() { # en, de-CH, auto
  local code=${1%%[-_]*}
  case $code in ?? | ??? | ????) ;; *) return 1 ;; esac
  case $code in *[!abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ]*) return 1 ;; esac
}
