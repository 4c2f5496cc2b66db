#!/usr/bin/env bats
# shortcut_install.sh and the steps that are the same everywhere: in an empty home directory, cut at every step, undone.
# The platform's own steps are small ones of this file that write a file and a setting; pip is a stand-in, but in the
# last test. Under the shell in A2I_TEST_BASH (bash by default).

bats_require_minimum_version 1.5.0

setup() {
  here=$BATS_TEST_DIRNAME/..
  root="$BATS_TEST_TMPDIR/a fresh cöpy"
  export HOME=$BATS_TEST_TMPDIR/home HF_ENDPOINT=http://hub.invalid
  unset NONINTERACTIVE SUDO_USER A2I_MODELS A2I_LANGUAGE XDG_DATA_HOME
  bin=$BATS_TEST_TMPDIR/bin
  python=$(command -v python3)
  mkdir -p "$root" "$HOME/.config/empty" "$bin"
  printf 'theirs\n' >"$HOME/.config/settings"
  ln -s .config/settings "$HOME/link"
  copy_repository
  fake_platform
  mkdir "$BATS_TEST_TMPDIR/theirs"
  ln -s "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"/* "$BATS_TEST_TMPDIR/theirs"
  rm -f "$BATS_TEST_TMPDIR"/theirs/ctranslate2 "$BATS_TEST_TMPDIR"/theirs/faster_whisper
  fake_python
}

teardown() {
  [ -z "${server:-}" ] || kill "$server"
  [ -z "${user:-}" ] || userdel "$user"
  [ -z "${top:-}" ] || rm -rf "$top"
}

copy_repository() {
  (cd "$here" && git ls-files -z --cached --others --exclude-standard -- '*.sh' '*.py' pyproject.toml examples models \
    README.md LICENSE .gitignore helpers | tar --null --ignore-failed-read -T - -cf - | tar -xf - -C "$root")
  sed 's|^SIGNS = .*|SIGNS = (Path(__file__).with_name("driver"),)|' "$here/helpers/core/nvidia_driver.py" \
    >"$root/helpers/core/nvidia_driver.py" # a GPU of the machine that runs the tests is not seen
}

fake_platform() {
  cat >"$root/helpers/install/linux.sh" <<'EOF'
system_check() { :; }
app_plan() { printf 'a file in the menu\n'; }
app_is_done() { [ "$(cat "$home/.local/share/applications/audio.desktop" 2>/dev/null)" = "Exec=$root" ]; }
app_do() { sleep 0.3 && printf 'Exec=%s\n' "$root" | write_file "$home/.local/share/applications/audio.desktop" 644; }
app_undo() { :; }
app_status() { app_is_done && printf 'in the menu'; }
shortcut_plan() { printf 'bind %s\n' "$key"; }
shortcut_is_done() { grep -qx "$key" "$home/.config/settings"; }
shortcut_do() {
  local line
  line=$(sed "/theirs/!d" "$home/.config/settings")
  sleep 0.2 && printf '%s\n%s\n' "$line" "$key" | write_file "$home/.config/settings" 644
}
shortcut_undo() { :; }
shortcut_status() { shortcut_is_done && printf '%s' "$key"; }
EOF
}

fake_python() { # the environment gets what the tests have, without extras; pip is checked and takes a moment
  cat >"$bin/python3" <<EOF
#!/bin/bash
[ "\$1 \$2 \$3" = '-I -m venv' ] || exec "$python" "\$@"
[ "\$4" = -- ] && "$python" -I -m venv --without-pip -- "\$5" || exit
cd "\$5"/lib/python3.*/site-packages && mkdir pip && touch pip/__init__.py && cat >pip/__main__.py <<'END'
import os, pathlib, sys, sysconfig, time
root = pathlib.Path(sys.prefix).parent
if sys.argv[1:] in (["--version"], ["config", "list"]):
    sys.exit()
if sys.argv[1:3] == ["install", "--dry-run"]:
    sys.exit(1)
extra = sys.argv[3].removeprefix(".")
assert sys.argv[1:] == ["install", "-e", f".{extra}"] and pathlib.Path.cwd() == root and extra in ("", "[torch]", "[convert]"), sys.argv
for name in ("PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR", "PIP_NO_INPUT"):
    assert os.environ[name] == "1", f"pip would write into the home directory without {name}"
time.sleep(0.4)
if extra == "[convert]":
    sys.exit()
if extra:
    if pathlib.Path("$BATS_TEST_TMPDIR/no-pytorch").exists():
        sys.exit("ERROR: No matching distribution found for torch")
    for name in ("torch", "diffusers", "transformers"):
        pathlib.Path(sysconfig.get_paths()["purelib"], name).mkdir(exist_ok=True)
    sys.exit()
pathlib.Path(sysconfig.get_paths()["purelib"], "dependencies.pth").write_text("$BATS_TEST_TMPDIR/theirs\n")
(root / "audio_to_image.egg-info").mkdir(exist_ok=True)
pathlib.Path(sysconfig.get_paths()["purelib"], "audio_to_image-0.1.0.dist-info").mkdir(exist_ok=True)
END
EOF
  chmod +x "$bin/python3"
  PATH=$bin:$PATH
}

fake_gpu() { # a driver of NVIDIA; what draws on it is not among the packages
  touch "$root/helpers/core/driver"
  rm -f "$BATS_TEST_TMPDIR"/theirs/{torch,diffusers,transformers}
}

fake_pipeline() { # where the picture is not the point
  cat >"$root/pipeline.sh" <<'EOF'
while [ "$1" != --output ]; do shift; done
sleep 0.5
printf '\211PNG\r\n\032\n' >"$2/image.png" && printf '%s\n' "$2/image.png"
EOF
}

fake_apt() { # a system without FFmpeg, and a package manager that has it, with one package that it needs
  mkdir "$BATS_TEST_TMPDIR/system"
  for program in awk basename cat chmod cksum cmp comm cp cut date diff dirname du env find grep head id kill ln ls mkdir mkfifo \
    mktemp mv od printf readlink rm rmdir sed sh sleep sort tail tar tee touch tr true uname wc bash; do
    ln -s "$(type -P "$program")" "$BATS_TEST_TMPDIR/system/$program"
  done
  printf '%s\n' bash libc6:amd64 >"$BATS_TEST_TMPDIR/packages"
  cat >"$bin/apt-get" <<EOF
#!/bin/bash
[ "\$*" = 'install -y -q ffmpeg' ] && [ "\$DEBIAN_FRONTEND" = noninteractive ] || exit 100
sleep 0.3
printf '%s\n' ffmpeg libavcodec59:amd64 >>"$BATS_TEST_TMPDIR/packages"
ln -s /bin/true "$bin/ffmpeg"
EOF
  cat >"$bin/dpkg-query" <<EOF
#!/bin/bash
sed 's/^/ii /' "$BATS_TEST_TMPDIR/packages"
EOF
  cat >"$bin/dpkg" <<EOF
#!/bin/bash
[ "\$1" = -P ] && [ ! -e "$BATS_TEST_TMPDIR/needed" ] || exit 1
shift
for package; do grep -qx "\$package" "$BATS_TEST_TMPDIR/packages" || exit 2; sed -i.bak "/^\$package\$/d" "$BATS_TEST_TMPDIR/packages"; done
rm "$bin/ffmpeg"
EOF
  chmod +x "$bin"/*
  PATH=$bin:$BATS_TEST_TMPDIR/system
}

installer() { "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" "$@" </dev/null 3>&-; }

tree() { # <folder>: every file, folder and link with its mode and content
  "$python" - "$1" <<'EOF'
import hashlib, os, pathlib, sys
top = pathlib.Path(sys.argv[1])
for path in sorted(top.rglob("*")):
    content = os.readlink(path) if path.is_symlink() else path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
    print(path.relative_to(top), oct(path.lstat().st_mode), content)
EOF
}

typed() { # <answer> <command…>: in a terminal of its own, where each question gets that answer
  "$python" - "$@" 3>&- <<'EOF'
import os, pty, sys
pid, terminal = pty.fork()
if not pid:
    os.execvp(sys.argv[2], sys.argv[2:])
text = b""
while True:
    try:
        text += (data := os.read(terminal, 4096))
    except OSError:
        break
    if not data:
        break
    if text.endswith(b"] "):
        os.write(terminal, sys.argv[1].encode() + b"\n")
print(text.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
EOF
}

is_clean() { # only what the repository ships with is left, and the home directory is what it was
  diff <(tree "$HOME") "$BATS_TEST_TMPDIR/home.before"
  diff <(tree "$root") "$BATS_TEST_TMPDIR/root.before"
}

remember() { tree "$HOME" >"$BATS_TEST_TMPDIR/home.before" && tree "$root" >"$BATS_TEST_TMPDIR/root.before"; }

# bats test_tags=slow
@test "install, a picture, again without a change, uninstall: everything is as before" {
  remember
  run --separate-stderr installer
  echo "$stderr"
  [ "$status" -eq 0 ]
  [ -z "$output" ]
  for line in '  environment  the Python packages' '  models       download base.en-q5_1 (60 MB), sdxs-512-dreamshaper (1.9 GB)' '  shortcut     bind ctrl+alt+i' \
    'warning: base.en-q5_1 was not downloaded' 'Try again later: ./download_model.py base.en-q5_1' 'a picture was drawn: ' 'The key: ctrl+alt+i'; do
    [[ $stderr = *"$line"* ]] || { echo "missing: $line"; return 1; }
  done
  [[ $stderr != *'[Y/n]'* ]]
  [ "$(cat "$HOME/.config/settings")" = "theirs"$'\n'"ctrl+alt+i" ]

  tree "$HOME" >"$BATS_TEST_TMPDIR/home.after" && tree "$root" >"$BATS_TEST_TMPDIR/root.after"
  run --separate-stderr installer --no-models
  [ "$status" -eq 0 ]
  [ "${stderr%%$'\n'*}" = "everything is in place" ]
  run --separate-stderr installer
  [ "$status" -eq 0 ]
  diff <(tree "$HOME") "$BATS_TEST_TMPDIR/home.after"
  diff <(tree "$root") "$BATS_TEST_TMPDIR/root.after"

  run --separate-stderr installer --status
  [ "$status" -eq 0 ]
  [ "${#lines[@]}" -eq 7 ]
  [[ $output = *"models       base.en-q5_1 (missing), sdxs-512-dreamshaper (missing)"*"shortcut     ctrl+alt+i"*"a picture was drawn"* ]]

  mkdir -p "$root/outputs/run" "$root/models/downloaded/tiny.en" && touch "$root/outputs/run/image.png"
  run --separate-stderr installer --uninstall
  echo "$stderr"
  [ "$status" -eq 0 ]
  [[ $stderr = *"$root/.venv"*"$HOME/.config/settings"*'Kept without --models'*'Kept without --pictures'* ]]
  [ -e "$root/outputs/run/image.png" ]
  [ -e "$root/models/downloaded/tiny.en" ]
  run --separate-stderr installer --uninstall --pictures --models
  echo "$stderr"
  [ "$status" -eq 0 ]
  is_clean
  run --separate-stderr installer --uninstall
  [ "$status" -eq 0 ]
  [ "$stderr" = "nothing is installed" ]
}

# bats test_tags=slow
@test "killed in any step, it goes on and uninstalls clean" {
  fake_pipeline
  fake_apt
  remember
  cp "$BATS_TEST_TMPDIR/packages" "$BATS_TEST_TMPDIR/packages.before"
  for name in ffmpeg environment models app shortcut selftest; do
    for delay in 0 0.2; do
      set -m
      "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" </dev/null >"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
      job=$!
      set +m
      until grep -q "^==> $name" "$BATS_TEST_TMPDIR/log"; do sleep 0.02; done
      sleep "$delay"
      kill -KILL -- "-$job" && killed=1 || killed=0
      wait "$job" || true
      [ "$killed" = 1 ] || { echo "$name $delay was over already"; return 1; }
      if [ "$delay" != 0 ]; then
        run installer
        [ "$status" -eq 0 ] || { echo "$name $delay: $output"; return 1; }
        [[ $output = *"audio-to-image is installed"* ]]
        [ "$(cat "$HOME/.config/settings")" = "theirs"$'\n'"ctrl+alt+i" ]
        [ -e "$bin/ffmpeg" ]
      fi
      run installer --uninstall
      [ "$status" -eq 0 ] || { echo "$name $delay: $output"; return 1; }
      is_clean || { echo "left after $name $delay"; return 1; }
      diff "$BATS_TEST_TMPDIR/packages" "$BATS_TEST_TMPDIR/packages.before"
    done
  done
}

# bats test_tags=slow
@test "an uninstallation that was killed is finished by the next one" {
  fake_pipeline
  remember
  for delay in 0 0.1 0.2 0.3; do
    installer --no-models
    set -m
    "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --uninstall </dev/null >"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
    job=$!
    set +m
    until grep -q "^What will be removed" "$BATS_TEST_TMPDIR/log"; do sleep 0.02; done
    sleep "$delay"
    kill -KILL -- "-$job" || true # over already, on a fast machine
    wait "$job" || true
    run installer --uninstall
    [ "$status" -eq 0 ]
    is_clean
  done
}

@test "the plan knows the models and their sizes before there is any package" {
  "$python" -c 'import tomllib' || skip "Python 3.10 needs a package to read the catalogue"
  cd "$root"
  A2I_ENGINE=coreml run "$python" -S -B -m helpers.install.wanted_models
  [ "$status" -eq 0 ]
  [ "$(cut -f 1-3 <<<"$output")" = $'base.en-q5_1\t60 MB\tmissing\nstable-diffusion-2-1-base-coreml-ne\t1.1 GB\tmissing' ]
  A2I_LANGUAGE=de A2I_ENGINE=openvino run "$python" -S -B -m helpers.install.wanted_models
  [ "$(cut -f 1,3 <<<"$output")" = $'base-q5_1\tmissing\nsdxs-512-dreamshaper\tmissing' ]
}

# bats test_tags=slow
@test "--dry-run changes nothing and shows every step" {
  remember
  run installer --dry-run
  echo "$output"
  [ "$status" -eq 0 ]
  for name in system ffmpeg environment models app shortcut selftest; do [[ $output = *"==> $name"* ]]; done
  [[ $output = *'==> ffmpeg: done already'*' -m venv '*' -m pip install '*download_model.py*base.en-q5_1*'write '*settings* ]]
  [[ $output != *'[Y/n]'* && $output != *PyTorch* ]]
  is_clean
  run installer
  [ "$status" -eq 0 ]
  remember
  run installer --dry-run --uninstall
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output = *'rm -rf -- '*.venv* ]]
  [[ $output = *'rm -f -- '*audio.desktop* ]]
  [[ $output = *'put '*settings* ]]
  is_clean
}

# bats test_tags=slow
@test "where an NVIDIA GPU is, PyTorch and the model for it come, too" {
  fake_pipeline
  fake_gpu
  remember
  run --separate-stderr installer --dry-run
  echo "$stderr"
  [ "$status" -eq 0 ]
  [[ $stderr = *'  environment  the Python packages (about 450 MB), PyTorch for the NVIDIA GPU (about 6 GB; '* ]]
  [[ $stderr = *'  models       download base.en-q5_1 (60 MB), stable-diffusion-2-1-base (2.6 GB)'* ]]
  [[ $stderr = *' -m pip install -e '*' -m pip install -e '*'\[torch\]'*'download_model.py stable-diffusion-2-1-base'* ]]
  is_clean
  A2I_ENGINE=openvino run --separate-stderr installer --dry-run
  [[ $stderr != *PyTorch* && $stderr != *stable-diffusion* ]]

  touch "$BATS_TEST_TMPDIR/no-pytorch"
  run --separate-stderr installer
  echo "$stderr"
  [ "$status" -eq 0 ]
  [[ $stderr = *'ERROR: No matching distribution found for torch'*'the extra torch could not be installed'*'warning: pictures are drawn on the CPU'* ]]
  [[ $stderr = *'a picture was drawn'*'audio-to-image is installed'* ]]
  [[ ${stderr#*==> models} != *stable-diffusion* ]]
  run --separate-stderr installer --status
  [[ $output = *'in .venv; without PyTorch'*'a picture was drawn'* ]]

  rm "$BATS_TEST_TMPDIR/no-pytorch"
  run --separate-stderr installer
  echo "$stderr"
  [ "$status" -eq 0 ]
  [[ $stderr = *'  environment  PyTorch for the NVIDIA GPU ('*'(60 MB), stable-diffusion-2-1-base (2.6 GB)'*'==> '* ]]
  [[ ${stderr#*==> models} = *'stable-diffusion-2-1-base was not downloaded'* ]]
  run --separate-stderr installer --no-models
  [ "$status" -eq 0 ]
  [ "${stderr%%$'\n'*}" = "everything is in place" ]
  run --separate-stderr installer --status
  [[ $output = *'(missing), stable-diffusion-2-1-base (missing)'* && $output != *'without PyTorch'* ]]
  rm -r "$root"/.venv/lib/python3.*/site-packages/diffusers
  run --separate-stderr installer --no-models
  echo "$stderr"
  [ "$status" -eq 0 ]
  [[ $stderr = *'  environment  '*'PyTorch for the NVIDIA GPU ('* ]]
  run installer --uninstall
  [ "$status" -eq 0 ]
  is_clean
}

# bats test_tags=slow
@test "--extra installs more Python packages and nothing else, an old name too; --uninstall takes them away" {
  remember
  run --separate-stderr installer --extra nonsense
  [ "$status" -eq 64 ]
  [[ $stderr = *"no extra is called 'nonsense'"*'torch, '*'convert, benchmark, speakers'* ]]
  run --separate-stderr installer --extra cuda --dry-run
  [ "$status" -eq 0 ]
  [[ $stderr = *' -m pip install -e '*'\[torch\]'* ]]
  is_clean
  run --separate-stderr installer --extra convert
  echo "$stderr"
  [ "$status" -eq 0 ]
  [[ $stderr = *'first run: installing'*'installing the extra convert into .venv (about 120 MB)'*'the extra convert is installed' ]]
  [ "$(cat "$root/.venv/extras")" = convert ]
  run --separate-stderr installer --extra=convert
  [ "$status" -eq 0 ]
  [ "$stderr" = "the extra convert is installed already" ]
  run --separate-stderr installer --status
  [[ $output = *'in .venv; extras: convert'* ]]
  run installer --uninstall
  [ "$status" -eq 0 ]
  is_clean
}

@test "through symbolic links, from any folder" {
  remember
  mkdir "$BATS_TEST_TMPDIR/links"
  ln -s "$root/shortcut_install.sh" "$BATS_TEST_TMPDIR/links/one"
  ln -s links/one "$BATS_TEST_TMPDIR/two"
  cd "$BATS_TEST_TMPDIR/links"
  run --separate-stderr "${A2I_TEST_BASH:-bash}" ../two --dry-run
  echo "$stderr"
  [ "$status" -eq 0 ]
  [[ $stderr = *"audio-to-image in $root:"* && $stderr = *'==> selftest'* && $stderr != *'No such file'* ]]
  is_clean
}

# bats test_tags=slow
@test "a person is asked once, and no means that nothing happens" {
  fake_pipeline
  remember
  run typed n "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh"
  echo "$output"
  [ "$status" -eq 130 ]
  [[ $output = *'  environment  '*'Go on? [Y/n] n'*'nothing was changed'* ]]
  is_clean
  run typed '' "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --no-models
  [ "$status" -eq 0 ]
  [ "$(grep -c '\[Y/n\]' <<<"$output")" -eq 1 ]
  run typed '' "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --uninstall
  [ "$status" -eq 130 ]
  [ -e "$root/.venv" ]
  run typed n env NONINTERACTIVE=1 "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --key f5
  [ "$status" -eq 0 ]
  [[ $output != *'[Y/n]'* ]]
  mkdir -p "$root/models/downloaded/tiny.en"
  run typed n "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --uninstall --yes
  [ "$status" -eq 0 ]
  [[ $output != *'[y/N]'* ]]
  [ -e "$root/models/downloaded/tiny.en" ]
  run typed y "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --yes
  [ "$status" -eq 0 ]
  [[ $output != *'[Y/n]'* ]]
  run typed y "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --uninstall
  [ "$status" -eq 0 ]
  [[ $output = *'Remove it? [y/N] y'*'The models, too? [y/N] y'* ]]
  is_clean
}

# bats test_tags=slow
@test "the key is kept by the next run, and another one takes its place" {
  fake_pipeline
  remember
  run installer --no-models --key 'Super+Shift+CONTROL+opt+F12'
  [ "$status" -eq 0 ]
  [ "$(tail -n 1 "$HOME/.config/settings")" = ctrl+alt+shift+cmd+f12 ]
  run installer --no-models
  [ "$status" -eq 0 ]
  [[ $output = *"everything is in place"*"The key: ctrl+alt+shift+cmd+f12"* ]]
  run installer --no-models --key=alt+space
  [ "$status" -eq 0 ]
  [ "$(cat "$HOME/.config/settings")" = theirs$'\n'alt+space ]
  run installer --uninstall
  [ "$status" -eq 0 ]
  is_clean
}

@test "--no-shortcut writes nothing outside the repository" {
  fake_pipeline
  remember
  run installer --no-shortcut --no-models
  [ "$status" -eq 0 ]
  [[ $output != *"==> app"* && $output != *"==> models"* && $output != *'The key'* ]]
  diff <(tree "$HOME") "$BATS_TEST_TMPDIR/home.before"
}

# bats test_tags=slow
@test "a machine without a GPU gets a speech model and an image model that draws anything; the next run uses them" {
  fake_pipeline
  export A2I_MODELS=$BATS_TEST_TMPDIR/models
  "$python" - "$root/models/catalog.toml" "$BATS_TEST_TMPDIR" "$here" <<'EOF' 3>&- &
import hashlib, pathlib, re, sys, time
sys.path[:0] = [sys.argv[3], sys.argv[3] + "/tests"]
from hub import Hub
from torch_models import sdxs_model
catalog, top = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
model, speech = sdxs_model(top / "sdxs"), b"a small model"
(model / "tokenizer" / "special_tokens_map.json").write_text("{}")
text = catalog.read_text()
for name, content in {"base.en-q5_1": speech}.items():
    pin = hashlib.sha256(content).hexdigest()
    text = re.sub(rf'(ggml-{name}.bin", bytes = )\d+(, sha256 = ")\w+', rf"\g<1>{len(content)}\g<2>{pin}", text)
text = text.replace('repo = "IDKiro/sdxs-512-dreamshaper"\nrevision = ', 'repo = "IDKiro/sdxs-512-dreamshaper"\n# ')
catalog.write_text(text)
with Hub() as hub:
    hub.add("ggerganov/whisper.cpp", "ggml-base.en-q5_1.bin", speech)
    for file in model.rglob("*"):
        if file.is_file():
            small = file.suffix != ".safetensors"
            hub.add("IDKiro/sdxs-512-dreamshaper", str(file.relative_to(model)), file.read_bytes(), small=small)
    (top / "hub.part").write_text(hub.url)
    (top / "hub.part").rename(top / "hub")
    time.sleep(600)
EOF
  server=$!
  until [ -s "$BATS_TEST_TMPDIR/hub" ]; do kill -0 "$server" && sleep 0.2; done
  remember
  HF_ENDPOINT=$(cat "$BATS_TEST_TMPDIR/hub") run installer --no-shortcut
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output = *'models       download base.en-q5_1 ('*'), sdxs-512-dreamshaper ('*'==> models'* ]]
  [[ $output = *'no revision of IDKiro/sdxs-512-dreamshaper is pinned: it is cccc'*'kept in '*.lock/sdxs-512-dreamshaper.json* ]]
  run "$python" "$root/download_model.py" --verify
  [ "$status" -eq 0 ]
  [[ $output = *'sdxs-512-dreamshaper: OK'* && $output != *'only the size'* ]]
  run installer --no-shortcut
  [ "${lines[0]}" = "everything is in place" ]

  cd "$root"
  for name in ${!A2I_*}; do [ "$name" = A2I_MODELS ] || unset "$name"; done
  A2I_OUTPUT=$BATS_TEST_TMPDIR/pictures A2I_JSON=1 run --separate-stderr "$python" -m helpers.draw.generate <<<'a submarine'
  echo "$stderr"
  [ "$status" -eq 0 ]
  [[ $output = *'"steps": 1, "guidance": 1.0, "sampler": "dpm++"'*'"name": "sdxs-512-dreamshaper"'*'"decoder": "small"'* ]]
  rm -rf "$root/.cache/openvino"

  unset A2I_MODELS
  run installer --uninstall --models
  echo "$output"
  [ "$status" -eq 0 ]
  [ -z "$(ls -A "$BATS_TEST_TMPDIR/models")" ]
  is_clean
}

# bats test_tags=slow
@test "models come from the hub, are journalled, and go only when that is wanted" {
  fake_pipeline
  export A2I_MODELS=$BATS_TEST_TMPDIR/models
  "$python" - "$root/models/catalog.toml" "$BATS_TEST_TMPDIR/hub" "$here" <<'EOF' 3>&- &
import hashlib, os, pathlib, re, sys, time
sys.path.insert(0, sys.argv[3])
from tests.hub import Hub
catalog, content = pathlib.Path(sys.argv[1]), b"a small model"
pin = hashlib.sha256(content).hexdigest()
text, n = re.subn(r'(ggml-tiny.en-q5_1.bin", bytes = )\d+(, sha256 = ")\w+', rf"\g<1>{len(content)}\g<2>{pin}", catalog.read_text())
assert n == 1
catalog.write_text(text)
with Hub() as hub:
    hub.add("ggerganov/whisper.cpp", "ggml-tiny.en-q5_1.bin", content)
    pathlib.Path(sys.argv[2]).write_text(hub.url)
    time.sleep(600)
EOF
  server=$!
  until [ -s "$BATS_TEST_TMPDIR/hub" ]; do sleep 0.1; done
  remember
  HF_ENDPOINT=$(cat "$BATS_TEST_TMPDIR/hub") run installer --no-shortcut --models tiny.en-q5_1
  echo "$output"
  [ "$status" -eq 0 ]
  [ "$(cat "$A2I_MODELS/tiny.en-q5_1/"*.bin)" = "a small model" ]
  run installer --no-shortcut --models tiny.en-q5_1
  [ "$status" -eq 0 ]
  [ "${lines[0]}" = "everything is in place" ]
  unset A2I_MODELS
  run installer --uninstall --models
  [ "$status" -eq 0 ]
  [[ $output = *"$BATS_TEST_TMPDIR/models/tiny.en-q5_1"* ]]
  [ ! -e "$BATS_TEST_TMPDIR/models/tiny.en-q5_1" ]
  is_clean
}

# bats test_tags=slow
@test "a step that fails is named with its remedy, the rest is done, and the next run goes on" {
  fake_pipeline
  remember
  printf 'app_do() { say "the menu cannot be written"; say "  make room"; return 73; }\n' >>"$root/helpers/install/linux.sh"
  run installer --no-models
  echo "$output"
  [ "$status" -eq 73 ]
  [[ $output = *'==> app'$'\n''the menu cannot'*'  make room'*'==> shortcut: skipped, it needs app'*'==> selftest'* ]]
  [[ ${lines[${#lines[@]}-1]} = "failed: app shortcut. The other steps are done"* ]]
  fake_platform
  run installer --no-models
  [ "$status" -eq 0 ]
  [[ $output != *"==> environment"* ]]
  printf 'system_check() { echo "macOS 12 is too old"; return 1; }\n' >>"$root/helpers/install/linux.sh"
  installer --uninstall
  run installer
  [ "$status" -eq 69 ]
  [[ $output = *"macOS 12 is too old"* && $output != *"==> environment"* ]]
  [ ! -e "$root/.venv" ]
}

@test "without a Python that serves, the environment is refused with the command that gets one" {
  fake_apt
  rm "$bin/python3"
  run installer --no-models
  echo "$output"
  [ "$status" -eq 69 ]
  [[ $output = *'no Python from 3.10 to 3.13'*'apt-get install python3'*'selftest: skipped'* ]]
}

@test "a self-test that draws no picture fails the installation" {
  printf 'exit 65\n' >"$root/pipeline.sh"
  run installer --no-models
  [ "$status" -eq 65 ]
  [[ $output = *'no picture was drawn'*'--verbose'*'failed: selftest.'* ]]
  printf 'printf GIF89a >"%s"; echo "%s"\n' "$BATS_TEST_TMPDIR/x.gif" "$BATS_TEST_TMPDIR/x.gif" >"$root/pipeline.sh"
  run installer --no-models
  [ "$status" -eq 70 ]
  [ ! -e "$root/.cache/install/selftest" ]
  [ ! -e "$root/.cache/install/selftest.pictures" ]
}

@test "killed when FFmpeg had just come, the next run still knows what came with it" {
  fake_pipeline
  fake_apt
  mkdir -p "$root/.cache/install"
  cp "$BATS_TEST_TMPDIR/packages" "$root/.cache/install/packages"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q ffmpeg
  run installer --no-models --no-shortcut
  [ "$status" -eq 0 ]
  [ "$(sed -n 's/^package //p' "$root/.cache/install/journal")" = ffmpeg$'\n'libavcodec59:amd64 ]
  run installer --uninstall
  [ "$status" -eq 0 ]
  [ "$(cat "$BATS_TEST_TMPDIR/packages")" = bash$'\n'libc6:amd64 ]
}

@test "packages that other programs need now stay, and are named" {
  fake_pipeline
  fake_apt
  installer --no-models --no-shortcut
  touch "$BATS_TEST_TMPDIR/needed"
  run installer --uninstall
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output = *'  package ffmpeg'*'stay: another program needs them'*'libavcodec59:amd64'* ]]
}

@test "no rights: sudo is asked only where it needs no password, and the copy in the environment serves" {
  fake_pipeline
  fake_apt
  printf '#!/bin/sh\n[ "$*" = -u ] && echo 1000\n' >"$bin/id.user"
  rm "$BATS_TEST_TMPDIR/system/id" && mv "$bin/id.user" "$bin/id" && chmod +x "$bin/id"
  run installer --no-models --no-shortcut
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output != *'==> ffmpeg'* && $output = *'warning: no FFmpeg, and no permission'*'sudo apt-get install ffmpeg'* ]]
  printf '#!/bin/sh\n[ "$1" = -n ] && shift && exec "$@"\n' >"$bin/sudo" && chmod +x "$bin/sudo"
  run installer --no-models --no-shortcut
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output = *'sudo asks for your password to run env'* ]]
  [ -e "$bin/ffmpeg" ]
}

@test "Ctrl-C ends it with 130, and nothing goes on in the background" {
  sed -i.bak 's/time.sleep(0.4)/time.sleep(30)/' "$bin/python3"
  set -m
  "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" --no-models </dev/null >"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
  job=$!
  set +m
  until pgrep -f "$root/.venv/bin/python -I -m pip" >/dev/null; do sleep 0.1; done
  kill -INT -- "-$job"
  code=0
  wait "$job" || code=$?
  [ "$code" -eq 130 ]
  grep -q 'interrupted; run ./shortcut_install.sh again to continue' "$BATS_TEST_TMPDIR/log"
  ! grep -q '==> app' "$BATS_TEST_TMPDIR/log" || return 1
  ! pgrep -f "$root/" || return 1
  [ ! -e "$root/.venv.lock" ]
  [ ! -L "$root/.cache/install/lock" ]
}

@test "with sudo it refuses, since everything would belong to root" {
  [ "$(id -u)" -eq 0 ] || skip "as root only"
  remember
  SUDO_USER=somebody run installer
  [ "$status" -eq 77 ]
  [ "${lines[1]}" = "  run ./shortcut_install.sh; it uses sudo where necessary" ]
  is_clean
}

@test "only one at a time; the lock of a killed run is taken over" {
  fake_pipeline
  mkdir -p "$root/.cache/install"
  ln -s $$ "$root/.cache/install/lock"
  run installer --no-models --no-shortcut
  [ "$status" -eq 69 ]
  [[ $output = *"another installer is running (process $$)"* ]]
  [ ! -e "$root/.venv" ]
  (exit) & dead=$!
  wait "$dead"
  ln -sf "$dead" "$root/.cache/install/lock"
  run installer --no-models --no-shortcut
  [ "$status" -eq 0 ]
  [ ! -L "$root/.cache/install/lock" ]
}

@test "write_file: whole or not at all, through links, in new folders, and what was there comes back" {
  . <(sed '/^main "\$@"$/d; /^case .* exec /d' "$root/shortcut_install.sh")
  . "$root/helpers/install/journal.sh"
  state=$BATS_TEST_TMPDIR/state dry=0
  mkdir "$HOME/dotfiles" && printf 'before' >"$HOME/dotfiles/rc" && chmod 600 "$HOME/dotfiles/rc"
  ln -s dotfiles/rc "$HOME/.rc"
  tree "$HOME" >"$BATS_TEST_TMPDIR/home.before"
  printf 'after' | write_file "$HOME/.rc" 644
  printf 'after all' | write_file "$HOME/.rc" 644
  printf 'new' | write_file "$HOME/a b/ü/file" 755
  [ -L "$HOME/.rc" ]
  [ "$(cat "$HOME/dotfiles/rc")" = "after all" ]
  [ -x "$HOME/a b/ü/file" ]
  [ "$(journal_of folder)" = "$HOME/a b/ü"$'\n'"$HOME/a b" ]
  : >"$HOME/a b/ü/.file.part" # of a run that was killed
  for path in "$HOME/dotfiles/rc" "$HOME/a b/ü/file"; do restore_file "$path"; done
  rmdir "$HOME/a b/ü" "$HOME/a b"
  diff <(tree "$HOME") "$BATS_TEST_TMPDIR/home.before"
  rm -r "$state" # of somebody who has emptied .cache: what is there already is ours all the same
  printf 'ours' >"$HOME/lost" && printf 'ours' | write_file "$HOME/lost" 644
  restore_file "$HOME/lost"
  [ ! -e "$HOME/lost" ]
  printf 'ours' | write_file "$HOME/changed" 644
  printf 'theirs' >"$HOME/changed"
  run restore_file "$HOME/changed"
  [ "$output" = "warning: $HOME/changed was changed after the installation, so it stays" ]
  [ "$(cat "$HOME/changed")" = theirs ]
}

# bats test_tags=slow
@test "the real thing: pip, the steps of this system, an ordinary user and an empty home directory" {
  top=$(mktemp -d /tmp/audio-to-image.XXXXXX)
  PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
  python=$(. "$here/helpers/shell/environment.sh" && base_python) || skip "no Python of the system that serves"
  export HOME=$top/home XDG_CURRENT_DESKTOP=sway
  root="$top/a fresh cöpy & more"
  mkdir -p "$HOME/.config/sway" "$root"
  printf 'bindsym Mod4+Return exec foot' >"$HOME/.config/sway/config" # no newline at its end
  copy_repository
  as_user=()
  if [ "$(id -u)" -eq 0 ]; then
    user=a2i-${top##*.}
    useradd -M -d "$HOME" "$user"
    chown -R "$user" "$top"
    as_user=(runuser -u "$user" --)
  fi
  remember
  real() { "${as_user[@]}" "${A2I_TEST_BASH:-bash}" "$root/shortcut_install.sh" "$@" </dev/null 3>&-; }
  start=$SECONDS
  run --separate-stderr real
  echo "$stderr"
  [ "$status" -eq 0 ]
  [[ $stderr = *'a picture was drawn'* ]]
  echo "# install: $((SECONDS - start)) s" >&3
  "${as_user[@]}" "$root/pipeline.sh" --prompt 'a cat' --no-open
  tree "$HOME" >"$BATS_TEST_TMPDIR/home.after" && tree "$root" >"$BATS_TEST_TMPDIR/root.after"
  ! diff -q "$BATS_TEST_TMPDIR/home.after" "$BATS_TEST_TMPDIR/home.before"
  run --separate-stderr real --no-models
  [ "$status" -eq 0 ]
  [ "${stderr%%$'\n'*}" = "everything is in place" ]
  diff <(tree "$HOME") "$BATS_TEST_TMPDIR/home.after"
  diff <(tree "$root") "$BATS_TEST_TMPDIR/root.after"
  run --separate-stderr real --uninstall --pictures
  echo "$stderr"
  [ "$status" -eq 0 ]
  is_clean
}

@test "wrong options end with 64, two lines, and do nothing" {
  remember
  wrong() {
    run --separate-stderr installer "$@"
    [ "$status" -eq 64 ] && [ -z "$output" ] && [ "$(grep -c . <<<"$stderr")" -eq 2 ] || {
      echo "$* → $status: $output$stderr"
      return 1
    }
  }
  wrong --nonsense
  wrong burger
  wrong --key
  wrong --key ''
  for key in i shift+i ctrl ctrl+ +i ctrl+ii ctrl+i+j ctrl+f13 ctrl+ü 'ctrl+i;id' 'ctrl+alt+i '; do wrong --key "$key"; done
  wrong --models
  wrong --models --yes
  wrong --models ''
  wrong --models nonsense-model
  wrong --models tiny.en --no-models
  wrong --key f5 --no-shortcut
  wrong --pictures
  wrong --status --uninstall
  wrong --extra
  wrong --extra torch --uninstall
  wrong --uninstall --models tiny.en
  wrong --uninstall --key f5
  wrong --status --no-models
  is_clean
}

@test "--help fits one screen and needs nothing" {
  rm -r "$root/helpers"
  run installer --help
  [ "$status" -eq 0 ]
  [ "${#lines[@]}" -le 24 ]
  for line in "${lines[@]}"; do [ "${#line}" -le 120 ]; done
}
