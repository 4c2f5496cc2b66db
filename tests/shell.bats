#!/usr/bin/env bats
# Every shell file is clean under ShellCheck and stays within bash 3.2 and the userland that macOS and Linux share.

bats_require_minimum_version 1.5.0

setup() {
  cd "$BATS_TEST_DIRNAME/.."
  scripts=$(git ls-files '*.sh' '.ci/run' 2>/dev/null)
  [ -n "$scripts" ] || scripts=$(find . -path ./.venv -prune -o -path ./.venv-test -prune -o -name '*.sh' -print)
}

# What bash 3.2 or BSD userland does not know. ShellCheck and bash -n on a Linux machine find none of these.
forbidden='declare -[Ag]|local -n|typeset -n|mapfile|readarray|\$\{[A-Za-z_]+(,|\^|@[A-Za-z])|\[-[0-9]+\]|:-?[0-9]+:-[0-9]'
forbidden+='|\[\[? -v |\|&|&>>|\bcoproc\b|\{[a-z_]+\}[<>]|\bwait -n|BASHPID|EPOCH(SECONDS|REALTIME)|read [^|;]*-t *[0-9]*\.'
forbidden+='|printf .%\(|lastpipe|globstar|\{0[0-9]*\.\.|readlink -[fe]|realpath|\bstat -|date [^|;]*(-d|%N)|\btimeout |\bnproc\b'
forbidden+='|grep [^|;]*-[a-zA-Z]*P|sed -i |\bsetsid\b|\btac\b|\bseq\b'

@test "ShellCheck finds nothing" {
  # shellcheck disable=SC2086
  shellcheck -x $scripts
}

@test "bash 3.2 and BSD userland know every construct" {
  # tests/run.sh and .ci/run included: a Mac runs them too
  # shellcheck disable=SC2086
  ! grep -nE "$forbidden" $scripts
}

@test "the check itself finds what it should" {
  while IFS= read -r line; do
    grep -qE "$forbidden" <<<"$line" || {
      echo "not found: $line"
      return 1
    }
  done <<'EOF'
declare -A table
local -n name=$1
mapfile -t lines
echo "${word,,}"
echo "${word^}"
echo "${word@Q}"
echo "${list[-1]}"
echo "${text:0:-1}"
[[ -v name ]]
run |& tee log
run &>>log
exec {fd}>file
wait -n
echo $BASHPID $EPOCHSECONDS
read -r -t 0.5 line
printf '%(%F)T' -1
for i in {01..10}; do :; done
readlink -f file
stat -c %s file
date -d yesterday
date +%s%N
timeout 5 run
grep -P 'x'
sed -i 's/a/b/' file
EOF
}

@test "every script ends in main, so that half of it does nothing" {
  for script in pipeline.sh shortcut_install.sh helpers/shell/hotkey.sh tests/run.sh; do
    [ "$(tail -n 1 "$script")" = 'main "$@"' ]
  done
}
