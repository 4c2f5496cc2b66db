#!/usr/bin/env bats
# bats file_tags=slow
# The whole pipe on a fresh copy of the repository, in an empty home directory: the README and nothing else.

bats_require_minimum_version 1.5.0

setup_file() {
  export root="$BATS_FILE_TMPDIR/a fresh cöpy" HOME="$BATS_FILE_TMPDIR/home" A2I_OUTPUT="$BATS_FILE_TMPDIR/outputs"
  unset DISPLAY WAYLAND_DISPLAY
  sound=$(mktemp -d) # a short name: there is a socket in it
  export sound
  mkdir -p "$root" "$HOME"
  (cd "$BATS_TEST_DIRNAME/.." && git ls-files -z | tar --null -T - -cf - | tar -xf - -C "$root")
  # No hub: a name that never resolves, so that no test waits for the network or downloads anything.
  export HF_ENDPOINT=http://hub.invalid
}

teardown_file() {
  "$BATS_TEST_DIRNAME/microphone.sh" --stop "$sound"
  rm -rf "$sound"
}

pipeline() { "${A2I_TEST_BASH:-bash}" "$root/pipeline.sh" "$@"; }

clean() { rm -rf "$A2I_OUTPUT"; }

nothing_made() { [ -z "$(ls -A "$A2I_OUTPUT" 2>/dev/null)" ]; }

shows() { # <subject> <background>: the picture in $output, to a reader that does not know the prompt
  (cd "$BATS_TEST_DIRNAME/.." && python -m tests.shows "$output" "$@")
}

fails() { # <exit code> <pattern of the first line> <arguments of pipeline.sh…>
  local code=$1 pattern=$2
  shift 2
  clean
  run --separate-stderr pipeline "$@"
  # shellcheck disable=SC2154
  if [ "$status" -ne "$code" ] || [ -n "$output" ] || ! [[ $stderr =~ $pattern ]] || [[ $stderr = *Traceback* ]] ||
    [ "$(grep -vcE 'the built-in recogniser knows few words|^speak now' <<<"$stderr")" -gt 2 ] || ! nothing_made; then
    printf '%s → %s\n%s\n%s\n' "$*" "$status" "$output" "$stderr"
    find "$A2I_OUTPUT"
    return 1
  fi
}

@test "first run: from nothing to a picture of a burger" {
  start=$SECONDS
  run --separate-stderr pipeline --input "$root/examples/burger.wav" --seed 1
  echo "$stderr"
  [ "$status" -eq 0 ]
  echo "# first run: $((SECONDS - start)) s" >&3
  [ "${#lines[@]}" -eq 1 ]
  [ "${output##*/}" = image.png ]
  [[ $stderr = *"first run: installing"* ]]
  shows burger blue
  cd "$(dirname "$output")"
  [ "$(ls | tr '\n' ' ')" = "image.png prompt.txt prompt.wav run.json transcript.txt " ]
  [[ $PWD = *-burger-on-a-blue-background ]]
}

@test "later runs install nothing, and the same seed is the same picture" {
  first=$(ls "$A2I_OUTPUT"/*/image.png)
  run --separate-stderr pipeline --input "$root/examples/burger.wav" --seed 1
  [ "$status" -eq 0 ]
  [[ $stderr != *install* ]]
  cmp "$first" "$output"
  run --separate-stderr pipeline --input "$root/examples/burger.wav" --seed 2
  [ "$status" -eq 0 ]
  ! cmp -s "$first" "$output"
}

@test "a typed prompt, from another folder, through a link" {
  clean
  ln -s "$root/pipeline.sh" "$BATS_TEST_TMPDIR/draw"
  cd "$BATS_TEST_TMPDIR"
  printf 'raise SystemExit("imported a file of the user")\n' | tee numpy.py json.py helpers.py >/dev/null
  run --separate-stderr ./draw --prompt 'a cat on a red background' --seed 3
  echo "$stderr"
  [ "$status" -eq 0 ]
  shows cat red
}

@test "two pictures of one prompt, as JSON" {
  clean
  run --separate-stderr pipeline -p 'a rocket in space' -c 2 -s 7 --json -q
  [ "$status" -eq 0 ]
  [ -z "$stderr" ]
  python - "$output" <<'EOF'
import json, pathlib, sys
run = json.loads(sys.argv[1])
assert [picture["seed"] for picture in run["pictures"]] == [7, 8]
assert [pathlib.Path(path).name for path in run["paths"]] == ["image.png", "image-2.png"]
assert pathlib.Path(run["paths"][0]).read_bytes() != pathlib.Path(run["paths"][1]).read_bytes()
assert run["prompt"] == "a rocket in space" and len(run["model"]["sha256"]) == 64
EOF
}

@test "several recordings, and one on stdin" {
  clean
  run --separate-stderr pipeline -i "$root"/examples/burger.* -i "$(ls "$root"/examples/*.mp3 | head -n 1)" -q
  [ "$status" -eq 0 ]
  [ "${#lines[@]}" -eq 2 ]
  clean
  run --separate-stderr pipeline -i - -q <"$root/examples/burger.wav"
  [ "$status" -eq 0 ]
  [ "${#lines[@]}" -eq 1 ]
  shows burger blue
}

@test "a broken environment is repaired" {
  clean
  rm -rf "$root"/.venv/lib/python3*/site-packages/PIL
  run --separate-stderr pipeline -p 'a cat on a red background' -s 3
  [ "$status" -eq 0 ]
  rm "$root/.venv/whole" "$root/.venv/bin/python"
  run --separate-stderr pipeline -p 'a cat on a red background' -s 3
  [ "$status" -eq 0 ]
  shows cat red
}

@test "recordings that cannot be drawn say why, with the right code, and leave nothing" {
  cd "$BATS_TEST_TMPDIR"
  wav=$root/examples/burger.wav
  : >empty.wav
  printf 'These are words, not sound.\n' >text.wav
  mkdir folder.wav
  ffmpeg -v error -f lavfi -i testsrc=duration=1:size=64x64 -an video.mp4
  ffmpeg -v error -f lavfi -i anullsrc=r=16000:cl=mono -t 3 silence.wav
  ffmpeg -v error -f lavfi -i anoisesrc=r=16000:a=0.1:seed=1 -t 3 noise.wav
  printf '#EXTM3U\n%s\n' "$wav" >list.wav
  fails 66 'No such file' -i missing.wav
  fails 65 'empty' -i empty.wav
  fails 65 . -i text.wav
  fails 66 'folder' -i folder.wav
  fails 65 'no sound' -i video.mp4
  fails 65 'silent|silence' -i silence.wav
  fails 65 . -i list.wav
  fails 65 'no words were heard' -i noise.wav
}

@test "recordings that are damaged or long are drawn as far as they go" {
  cd "$BATS_TEST_TMPDIR"
  wav=$root/examples/burger.wav
  ffmpeg -v error -i "$wav" -af apad=pad_dur=6 whole.mp3
  head -c $(($(wc -c <whole.mp3) * 6 / 10)) whole.mp3 >cut.mp3
  clean
  run --separate-stderr pipeline -i cut.mp3 -q -s 1
  [ "$status" -eq 0 ]
  shows burger blue
  ffmpeg -v error -i "$wav" -af apad=whole_dur=3600 -c:a libmp3lame -b:a 16k hour.mp3
  clean
  run --separate-stderr pipeline -i hour.mp3 -s 1
  [ "$status" -eq 0 ]
  [[ $stderr != *"is longer"* ]]
  shows burger blue
}

@test "without FFmpeg on the system its copy in the environment decodes" {
  clean
  mkdir "$BATS_TEST_TMPDIR/bin"
  for program in $(compgen -c | sort -u); do
    case $program in ffmpeg | ffprobe) ;; *) path=$(type -P "$program") && ln -sf "$path" "$BATS_TEST_TMPDIR/bin/$program" ;; esac
  done
  PATH=$BATS_TEST_TMPDIR/bin run --separate-stderr pipeline -i "$root/examples/burger.wav" -q -s 1
  echo "$stderr"
  [ "$status" -eq 0 ]
  shows burger blue
}

@test "hostile prompts are drawn as text and do nothing else" {
  cd "$BATS_TEST_TMPDIR"
  for prompt in "a \"burger\" and 'fries'" "\$(touch here) \`touch here\`; touch here" $'a cat\nand\ra dog' \
    'a burger 🍔 👨‍👩‍👧' 'המבורגר على خلفية' $'a \e]0;title\a \e[2J \xe2\x80\xae cat' '--open' '../../../etc/passwd' \
    "$(head -c 10000 /dev/zero | tr '\0' 'x')" "$(printf 'word %.0s' {1..2000})"; do
    clean
    run --separate-stderr pipeline --prompt "$prompt cat" -n 1 --no-open  # the built-in model must know a thing of it
    [ "$status" -eq 0 ] && [ "${#lines[@]}" -eq 1 ] && [ -f "$output" ] || { echo "$prompt: $status $stderr"; return 1; }
    [[ $stderr != *$'\e'* && $stderr != *$'\xe2\x80\xae'* ]]
    [ "$(wc -l <<<"$stderr")" -le 3 ]
    [[ ${output#"$A2I_OUTPUT"/} =~ ^[0-9T-]+(-[a-z0-9-]+)?/image.png$ ]]
  done
  [ ! -e here ]
}

@test "prompts from a stage of one's own: NUL, invalid UTF-8, empty lines" {
  clean
  printf '#!/bin/sh\ncat >/dev/null\nprintf "a cat\\000 on red\\n\\n\\377\\376 a dog\\n"\n' >"$BATS_TEST_TMPDIR/asr"
  chmod +x "$BATS_TEST_TMPDIR/asr"
  A2I_TRANSCRIBE=$BATS_TEST_TMPDIR/asr run --separate-stderr pipeline -i "$root/examples/burger.wav" -n 1
  [ "$status" -eq 0 ]
  [ "${#lines[@]}" -eq 2 ]
  [ "$(cat "$(dirname "${lines[0]}")/prompt.txt")" = "a cat on red" ]
}

@test "models that are not there" {
  fails 64 'no model is called' -p 'a cat' -m nonsense
  fails 66 'no model folder' -p 'a cat' -m ./nowhere
  fails 64 'draws no pictures' -p 'a cat' -m base.en-q5_1
  clean
  run --separate-stderr pipeline -p 'a cat on a red background' -m stable-diffusion-2-1-base -s 3
  [ "$status" -eq 0 ]
  [[ $stderr = *"./download_model.py stable-diffusion-2-1-base"* ]]
  shows cat red
  fails 69 'download_model.py' -i "$root/examples/burger.wav" -l de
}

@test "a full disk ends with 73, and nothing half-made is left" {
  full=$BATS_TEST_TMPDIR/full
  mkdir "$full"
  for size in 64k 16k; do # full when the picture is written; full from the start
    mount -t tmpfs -o size=$size none "$full" 2>/dev/null || skip "needs the right to mount"
    mkdir "$full/outputs"
    [ $size = 64k ] || head -c 100000 /dev/zero >"$full/zeros" 2>/dev/null || true
    A2I_OUTPUT=$full/outputs run --separate-stderr pipeline -p 'a cat' -n 1
    left=$(ls -A "$full/outputs")
    umount "$full"
    echo "$stderr"
    [ "$status" -eq 73 ]
    [ -z "$left" ]
    [[ $stderr = *"disk"*"full"* ]]
  done
}

@test "an output folder that cannot be written ends with 73" {
  touch "$BATS_TEST_TMPDIR/file"
  A2I_OUTPUT="$BATS_TEST_TMPDIR/file" run --separate-stderr pipeline -p 'a cat'
  [ "$status" -eq 73 ]
  A2I_OUTPUT=/proc/nowhere run --separate-stderr pipeline -p 'a cat'
  [ "$status" -eq 73 ]
}

@test "every program's --help answers without its libraries" {
  for program in pipeline.sh download_model.py remove_parentheses.py; do
    run "$root/$program" --help
    [ "$status" -eq 0 ]
    [[ $output = [Uu]sage:* ]]
  done
}

microphone() { # a sound server whose microphone hears what is played into it; one for all tests of this file
  [ -s "$sound/environment" ] || "$BATS_TEST_DIRNAME/microphone.sh" "$sound" >"$sound/environment"
  . "$sound/environment"
}

@test "the microphone: speak, and the picture is there" {
  clean
  microphone
  export A2I_EVENTS="$BATS_TEST_TMPDIR/events"
  : >"$A2I_EVENTS"
  (until grep -q '"record", "event": "ready"' "$A2I_EVENTS"; do sleep 0.1; done; paplay "$root/examples/burger.wav") 3>&- &
  run --separate-stderr pipeline -s 1
  echo "$stderr"
  [ "$status" -eq 0 ]
  shows burger blue
  python - "$(dirname "$output")/run.json" <<'EOF'
import json, sys
seconds = json.load(open(sys.argv[1]))["seconds"]
heard = seconds["record"]["heard"]
assert seconds["transcribe"]["ready"] < heard and seconds["generate"]["ready"] < heard, seconds
EOF
}

@test "a microphone that gives only silence ends with 77" {
  microphone
  fails 77 'silen' -t 1
}

@test "no microphone ends with 69" {
  PULSE_SERVER=unix:/nowhere fails 69 'microphone' -t 1
}

@test "--loop: a picture for each thing that is said, until stop listening" {
  cd "$root"
  run python -m benchmark.loop --utterances 3 --seconds 4
  echo "$output"
  [ "$status" -eq 0 ]
}

@test "the doctor: a line for each thing, and 0 as a picture can be drawn" {
  clean
  microphone
  run pipeline --doctor
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output = *"ok  picture"* ]]
  [[ $output = *"microphone"*"gives only silence"* ]]
  [[ $output != *"$HOME"* ]]
  run --separate-stderr pipeline --doctor --json
  [ "$status" -eq 0 ]
  python -m json.tool <<<"$output" >/dev/null
  nothing_made
}
