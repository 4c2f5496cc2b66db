# shellcheck shell=bash
# A copy of the repository's programs in another place, with an environment that counts as whole: what pipeline.sh
# needs to run stages that are not ours.

make_fake_root() { # <folder>: sets root
  local here=${BATS_TEST_DIRNAME%/}/..
  root=$1
  mkdir -p "$root/.venv/bin" "$root/.venv/lib/python3.11/site-packages/some" "$root/.cache"
  cp -R "$here/pipeline.sh" "$here/pyproject.toml" "$here/remove_parentheses.py" "$here/helpers" "$root/"
  root=$(cd "$root" && pwd -P)
  ln -s "$(command -v python3)" "$root/.venv/bin/python"
  (. "$root/helpers/shell/environment.sh" && environment_stamp) >"$root/.venv/whole"
}
