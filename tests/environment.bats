#!/usr/bin/env bats
# The Python environment: made once, kept, and repaired when something that it needs is missing. pip is a stand-in.

bats_require_minimum_version 1.5.0
load fake_root

setup() {
  make_fake_root "$BATS_TEST_TMPDIR/it's \"mine\" & ümläut"
  rm -r "$root/.venv"
  export root calls=$BATS_TEST_TMPDIR/calls here=$BATS_TEST_DIRNAME/.. offline=$BATS_TEST_TMPDIR/offline
  python=$(command -v python3) bin=$BATS_TEST_TMPDIR/bin
  unset A2I_ENGINE A2I_SAFE A2I_GENERATE NONINTERACTIVE
  : >"$calls"
  mkdir "$bin"
  cat >"$root/pyproject.toml" <<'END'
[project]
dependencies = [
  "alpha-one==1.0", # what it is for [not an end]
  "absent==2.0; python_version < '3'",
]

[project.optional-dependencies]
benchmark = ["audio-to-image[convert,torch]", "delta==4.0"]
convert = ["gamma==3.0"]
cuda = ["audio-to-image[torch]"]
torch = [
  "beta.two==2.0",
]
END
  cat >"$bin/python3" <<END
#!/bin/bash
[ "\$1 \$2 \$3" = '-I -m venv' ] || exec "$python" "\$@"
printf 'venv\n' >>"$calls"
"$python" -I -m venv --without-pip -- "\$5" && cd "\$5"/lib/python3.*/site-packages && mkdir pip pip-1.0.dist-info &&
  cp "$BATS_TEST_TMPDIR/pip.py" pip/__main__.py
END
  chmod +x "$bin/python3"
  PATH=$bin:$PATH
  cat >"$BATS_TEST_TMPDIR/pip.py" <<'END'
import os, pathlib, shutil, sys, sysconfig
site, root = pathlib.Path(sysconfig.get_paths()["purelib"]), os.environ["root"]
packages = {"": ["alpha_one-1.0", "Loose-7.0"], "torch": ["beta_two-2.0+cpu"], "convert": ["gamma-3.0"], "benchmark": ["delta-4.0"]}
def put(package):
    name = package.partition("-")[0]
    for old in site.glob(f"{name}-*.dist-info"):
        shutil.rmtree(old)
    for path in (site / name, site / f"{package}.dist-info"):
        path.mkdir(exist_ok=True)
    (site / name / "__init__.py").touch()
    (site / f"{package}.dist-info/RECORD").write_text(f"{name}/__init__.py,,\n../../../bin/x,,\n{package}.dist-info/RECORD,,\n")
if sys.argv[1:] in (["--version"], ["config", "list"]):
    sys.exit()
with open(os.environ["calls"], "a") as log:
    print(*sys.argv[1:], file=log)
if sys.argv[1:4] == ["install", "--dry-run", "--no-index"]:
    asked = [line.split(";")[0] for line in open(sys.argv[5]) if "<" not in line]
    assert asked, "no requirements"
    wanted = [line.strip().replace("==", "-").replace("alpha-one", "alpha_one").replace("beta.two", "beta_two") for line in asked]
    sys.exit(not all(list(site.glob(f"{one}*.dist-info")) for one in [*wanted, "Loose-"]))
assert sys.argv[1:3] == ["install", "-e"] and sys.argv[3].startswith(".") and os.getcwd() == root, sys.argv
if pathlib.Path(os.environ["offline"]).exists():
    sys.exit("ERROR: no network")
extras = [one for one in sys.argv[3].strip(".[]").split(",") if one]
for one in ["", *(["convert", "torch"] if "benchmark" in extras else []), *extras]:
    for package in packages[one]:
        if not (site / f"{package}.dist-info").exists():
            put(package)
if not pathlib.Path(os.environ["offline"] + "-nothing").exists():
    (site / "audio_to_image-0.1.dist-info").mkdir(exist_ok=True)
END
}

make() { # [command]: as pipeline.sh does it
  "${A2I_TEST_BASH:-bash}" -c 'set -u -o pipefail
    say() { printf "%s\n" "$1" >&2; }
    die() { printf "%s\n" "$2" "${3:-}" >&2; exit "$1"; }
    . "$root/helpers/shell/platform/linux.sh" && . "$root/helpers/shell/environment.sh" || exit 1
    ensure_environment
    eval "${1:-}"' bash "$@" </dev/null 3>&-
}

site() { printf '%s' "$root"/.venv/lib/python3.*/site-packages; }

asked() { # <what pip and venv were asked to do>: since the last time
  diff <(printf '%s' "${1:+$1$'\n'}") <(sed "s|-r .*|-r FILE|; s|$root|ROOT|" "$calls") || return
  : >"$calls"
}

@test "made once; upgrades of pip and of packages that are not pinned change nothing" {
  make
  asked $'venv\ninstall -e .'
  cd "$(site)"
  mv pip-1.0.dist-info pip-2.0.dist-info
  mv Loose-7.0.dist-info Loose-8.0.dist-info
  mkdir mine mine-1.0.dist-info
  cd "$root"
  run make
  [ "$status" -eq 0 ] && [ -z "$output" ]
  asked ''
}

@test "a program with a module that is missing does not touch the environment" {
  make
  before=$(cksum "$root/.venv/whole")
  printf 'import sys\nfrom helpers.core import stage\ndef main(argv):\n  import no_such_module\nstage.run("mine", main)\n' >"$root/mine.py"
  run "$root/.venv/bin/python" "$root/mine.py"
  [ "$status" -ne 0 ]
  [[ $output = *no_such_module* ]]
  [ "$(cksum "$root/.venv/whole")" = "$before" ]
  : >"$calls"
  make
  asked ''
}

@test "a pinned package that is gone, damaged or of another version is repaired, and nothing else" {
  make
  touch "$(site)/mark"
  for damage in 'rm -r alpha_one alpha_one-1.0.dist-info' 'rm -r alpha_one' 'mv alpha_one-1.0.dist-info alpha_one-0.9.dist-info' \
    'rm -r Loose Loose-7.0.dist-info'; do
    (cd "$(site)" && eval "$damage")
    : >"$calls"
    run make
    [ "$status" -eq 0 ]
    [[ $output = "repairing the Python packages"* ]] || { echo "$damage: $output"; return 1; }
    asked $'install --dry-run --no-index -r FILE\ninstall -e .'
    [ -e "$(site)/alpha_one/__init__.py" ] && [ -e "$(site)/alpha_one-1.0.dist-info" ] && [ -e "$(site)/mark" ]
    make
    asked ''
  done
}

@test "what asks for nothing new installs nothing: another pyproject.toml, a package that the user took away" {
  make
  mkdir "$(site)/mine-1.0.dist-info"
  printf '# a comment\n' >>"$root/pyproject.toml"
  : >"$calls"
  touch "$offline"
  run make
  [ "$status" -eq 0 ] && [ -z "$output" ]
  asked 'install --dry-run --no-index -r FILE'
  rmdir "$(site)/mine-1.0.dist-info"
  run make
  [ "$status" -eq 0 ] && [ -z "$output" ]
  asked 'install --dry-run --no-index -r FILE'
  make
  asked ''
}

@test "a repair that fails is said, and the next run tries again; nothing is thrown away" {
  make
  (cd "$(site)" && mv alpha_one-1.0.dist-info alpha_one-0.9.dist-info)
  touch "$offline" "$(site)/mark"
  run make
  [ "$status" -eq 69 ]
  [[ $output = *'ERROR: no network'*'could not be installed'*'.venv/install.log'* ]]
  rm "$offline"
  run make
  [ "$status" -eq 0 ]
  [ -e "$(site)/mark" ] && [ -e "$(site)/alpha_one-1.0.dist-info" ]
}

@test "pip that ends well and has installed nothing here: the cause is said, and nothing counts as installed" {
  touch "$offline-nothing"
  run make
  [ "$status" -eq 69 ]
  [[ $output = *'ERROR: pip has ended without an error, but has installed nothing into '*'could not be installed'* ]]
  [ ! -e "$root/.venv/whole" ]
}

@test "no module in the folder that the user is in, and no variable of Python, gets in the way" {
  mkdir "$BATS_TEST_TMPDIR/mine"
  cd "$BATS_TEST_TMPDIR/mine"
  for module in pathlib venv pip ensurepip random logging; do printf 'raise SystemExit("mine")\n' >"$module.py"; done
  PYTHONPATH=$PWD PYTHONHOME=/nowhere run make
  echo "$output"
  [ "$status" -eq 0 ]
  asked $'venv\ninstall -e .'
}

@test "moved, without its Python, or never finished, it is made anew with its extras" {
  make 'install_extra torch'
  [ "$(cat "$root/.venv/extras")" = torch ]
  for damage in 'rm "$root/.venv/bin/python"' 'rm "$root/.venv/whole"' 'sed -i.bak "1s|.*|/elsewhere|" "$root/.venv/whole"' \
    'rm -r "$(site)/pip" && printf "#\n" >>"$root/pyproject.toml"'; do
    eval "$damage"
    : >"$calls"
    run make
    [ "$status" -eq 0 ]
    [[ $output = "first run: installing"*"with the extras torch"* ]] || { echo "$damage: $output"; return 1; }
    asked $'venv\ninstall -e .[torch]'
    [ -e "$(site)/beta_two" ]
  done
}

@test "another Python under the old name is noticed" {
  make
  sed -i.bak '3s|.*|/usr/bin/env|' "$root/.venv/whole"
  run ! bash -c 'python=$root/.venv/bin/python && . "$root/helpers/shell/environment.sh" && environment_is_whole'
}

@test "extras: killed while it is made anew, it still has them; what pip brought or took away counts" {
  make 'install_extra torch'
  rm -r "$root/.venv/whole" "$root"/.venv/lib
  : >"$calls"
  make
  asked $'venv\ninstall -e .[torch]'
  (cd "$root" && .venv/bin/python -m pip install -e ".[convert]") # as an earlier README said
  printf '# new pins\n' >>"$root/pyproject.toml"
  make
  [ "$(sort "$root/.venv/extras")" = convert$'\n'torch ]
  (cd "$(site)" && rm -r beta_two*)
  : >"$calls"
  make
  [ "$(cat "$root/.venv/extras")" = convert ]
  asked 'install --dry-run --no-index -r FILE'
}

@test "an environment of an earlier version keeps its extras and is not made anew" {
  make 'install_extra benchmark'
  rm "$root/.venv/extras"
  printf '%s\n' "$root" '1 2' "$(site)"/* >"$root/.venv/whole"
  : >"$calls"
  make
  asked 'install --dry-run --no-index -r FILE'
  [ "$(tr '\n' ' ' <"$root/.venv/extras")" = 'benchmark convert torch ' ]
  grep -q '^delta-4.0.dist-info delta$' "$root/.venv/whole"
  grep -q '^beta_two-2.0+cpu.dist-info beta_two$' "$root/.venv/whole"
  make
}

@test "an extra that is needed: without a terminal one command is named, on one a person is asked" {
  make
  run make 'need_extra torch'
  [ "$status" -eq 69 ]
  [ "${#lines[@]}" -eq 2 ]
  [[ ${lines[0]} = *'(torch, about 6 GB)' && ${lines[1]} = *'./shortcut_install.sh --extra torch' ]]
  A2I_ENGINE=torch run make need_extras
  [ "$status" -eq 69 ]
  A2I_SAFE=1 run make need_extras
  [ "$status" -eq 69 ]
  A2I_ENGINE=cuda A2I_GENERATE=mine run make need_extras
  [ "$status" -eq 0 ] && [ -z "$output" ]
  terminal() {
    "$python" - "$1" "${A2I_TEST_BASH:-bash}" -c '. "$root/helpers/shell/environment.sh"; . "$root/helpers/shell/platform/linux.sh"
      say() { printf "%s\n" "$1"; }; die() { printf "%s\n" "$2" "$3"; exit "$1"; }
      ensure_environment; need_extra torch' 3>&- <<'END'
import os, pty, sys
pid, fd = pty.fork()
if not pid:
    os.execvp(sys.argv[2], sys.argv[2:])
text = b""
while True:
    try:
        text += (data := os.read(fd, 4096))
    except OSError:
        break
    if not data:
        break
    if text.endswith(b"] "):
        os.write(fd, sys.argv[1].encode() + b"\n")
print(text.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
END
  }
  run terminal n
  echo "$output"
  [ "$status" -eq 69 ]
  [[ $output = *'(torch, about 6 GB). Install them now? [y/N]'*'--extra torch'* ]]
  : >"$calls"
  run terminal y
  echo "$output"
  [ "$status" -eq 0 ]
  asked 'install -e .[torch]'
  run make 'need_extra torch'
  [ "$status" -eq 0 ] && [ -z "$output" ]
  asked ''
}

@test "an extra that cannot be installed leaves the environment as it was" {
  make
  touch "$offline"
  run make 'install_extra torch'
  [ "$status" -eq 69 ]
  [[ $output = *'the extra torch could not be installed'* ]]
  : >"$calls"
  make
  asked ''
  [ ! -s "$root/.venv/extras" ]
}

@test "each system is told its own command, by the shell and by Python" {
  mkdir "$BATS_TEST_TMPDIR/system"
  for program in bash grep dirname uname; do ln -s "$(type -P "$program")" "$BATS_TEST_TMPDIR/system/"; done
  printf '#!/bin/sh\necho "$uid"\n' >"$BATS_TEST_TMPDIR/system/id"
  chmod +x "$BATS_TEST_TMPDIR/system/id"
  says() { # <package> <what> <platform>
    local by_shell by_python
    by_shell=$(PATH=$BATS_TEST_TMPDIR/system bash -c '. "$root/helpers/shell/platform/$2.sh"; . "$root/helpers/shell/environment.sh"
      package_hint "$1"' bash "$1" "$3")
    by_python=$(cd "$here" && PATH=$BATS_TEST_TMPDIR/system "$python" -c '
import os, sys
from helpers.core.packages import install_hint
os.geteuid = lambda: int(os.environ["uid"])
sys.platform = sys.argv[2]
print(install_hint(sys.argv[1]))' "$1" "$3")
    [ "$by_shell" = "$2" ] && [ "$by_python" = "$2" ] || { printf '%s\n' "$by_shell" "$by_python" "$2"; return 1; }
  }
  export uid=1000
  says ffmpeg 'install ffmpeg with the package manager of your system' linux
  says ffmpeg 'install Homebrew (https://brew.sh), then: brew install ffmpeg' darwin
  manager='' # there is one at a time
  while IFS='|' read -r system name hint; do
    [ -z "$manager" ] || rm "$BATS_TEST_TMPDIR/system/$manager"
    manager=$name
    ln -s /bin/true "$BATS_TEST_TMPDIR/system/$name"
    says ffmpeg "$hint" "$system"
    uid=0 says ffmpeg "${hint#sudo }" "$system"
  done <<'END'
linux|apt-get|sudo apt-get install ffmpeg
linux|dnf|sudo dnf install ffmpeg-free
linux|zypper|sudo zypper install ffmpeg
linux|pacman|sudo pacman -S ffmpeg
linux|brew|brew install ffmpeg
darwin|brew|brew install ffmpeg
END
  says python 'brew install python@3.12' darwin
}
