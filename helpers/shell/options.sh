# shellcheck shell=bash disable=SC2034
# The options of pipeline.sh. Do not edit: change Settings in helpers/core/settings.py, then run
# python -m helpers.shell.options

VARIABLES='A2I_PROMPT A2I_INPUT A2I_AGAIN A2I_TIME A2I_SILENCE A2I_FIXED_WINDOW A2I_LOOP A2I_TALK A2I_CONFIRM A2I_SAY A2I_DEVICE A2I_SPEAKERS A2I_LANGUAGE A2I_TRANSLATE A2I_WHISPER A2I_MODEL A2I_PLAIN_PROMPT A2I_LORA A2I_STEPS A2I_SEED A2I_GUIDANCE A2I_SAMPLER A2I_DECODER A2I_COUNT A2I_NEGATIVE A2I_SIZE A2I_SAFE A2I_OUTPUT A2I_OPEN A2I_JSON A2I_QUIET A2I_VERBOSE A2I_ENGINE A2I_PRECISION A2I_MODELS A2I_SEARCH A2I_VOCABULARY A2I_REPLACEMENTS A2I_STYLES A2I_STYLE A2I_LLM A2I_LLM_MODEL A2I_LLM_KEY A2I_SPOKEN_OPTIONS A2I_VOICE A2I_LOW_MEMORY A2I_COMPUTE_UNITS A2I_APPLE_PYTHON A2I_ALLOW_PICKLE A2I_EVENTS A2I_SESSION A2I_CONTROL'

find_option() { # <flag or variable>: sets variable, kind, and low and high or choices; false for an unknown one
  case $1 in
    -p | --prompt | A2I_PROMPT) variable=A2I_PROMPT kind=text ;;
    -i | --input | A2I_INPUT) variable=A2I_INPUT kind=place ;;
    --again | A2I_AGAIN) variable=A2I_AGAIN kind=place ;;
    -t | --time | A2I_TIME) variable=A2I_TIME kind=number low=0.1 high=3600 ;;
    --silence | A2I_SILENCE) variable=A2I_SILENCE kind=number low=0.2 high=10 ;;
    --fixed-window | A2I_FIXED_WINDOW) variable=A2I_FIXED_WINDOW kind=switch ;;
    --loop | A2I_LOOP) variable=A2I_LOOP kind=switch ;;
    --talk | A2I_TALK) variable=A2I_TALK kind=switch ;;
    --confirm | A2I_CONFIRM) variable=A2I_CONFIRM kind=switch ;;
    --say | A2I_SAY) variable=A2I_SAY kind=switch ;;
    -d | --device | A2I_DEVICE) variable=A2I_DEVICE kind=text ;;
    --speakers | A2I_SPEAKERS) variable=A2I_SPEAKERS kind=switch ;;
    -l | --language | A2I_LANGUAGE) variable=A2I_LANGUAGE kind=language ;;
    --translate | A2I_TRANSLATE) variable=A2I_TRANSLATE kind=switch ;;
    -w | --whisper | A2I_WHISPER) variable=A2I_WHISPER kind=place ;;
    -m | --model | A2I_MODEL) variable=A2I_MODEL kind=place ;;
    --plain-prompt | A2I_PLAIN_PROMPT) variable=A2I_PLAIN_PROMPT kind=switch ;;
    --lora | A2I_LORA) variable=A2I_LORA kind=adapters ;;
    -n | --steps | A2I_STEPS) variable=A2I_STEPS kind=whole low=1 high=1000 ;;
    -s | --seed | A2I_SEED) variable=A2I_SEED kind=seed high=18446744073709551615 ;;
    -g | --guidance | A2I_GUIDANCE) variable=A2I_GUIDANCE kind=number low=0 high=100 ;;
    --sampler | A2I_SAMPLER) variable=A2I_SAMPLER kind=choice choices='ddim euler euler-ancestral dpm++ lcm' ;;
    --decoder | A2I_DECODER) variable=A2I_DECODER kind=choice choices='full small' ;;
    -c | --count | A2I_COUNT) variable=A2I_COUNT kind=whole low=1 high=1000 ;;
    --negative | A2I_NEGATIVE) variable=A2I_NEGATIVE kind=text ;;
    --size | A2I_SIZE) variable=A2I_SIZE kind=size low=16 high=9999 ;;
    --safe | A2I_SAFE) variable=A2I_SAFE kind=switch ;;
    -o | --output | A2I_OUTPUT) variable=A2I_OUTPUT kind=folder ;;
    --open | A2I_OPEN) variable=A2I_OPEN kind=switch ;;
    --json | A2I_JSON) variable=A2I_JSON kind=switch ;;
    -q | --quiet | A2I_QUIET) variable=A2I_QUIET kind=switch ;;
    -v | --verbose | A2I_VERBOSE) variable=A2I_VERBOSE kind=switch ;;
    A2I_ENGINE) variable=A2I_ENGINE kind=text ;;
    A2I_PRECISION) variable=A2I_PRECISION kind=text ;;
    A2I_MODELS) variable=A2I_MODELS kind=folder ;;
    A2I_SEARCH) variable=A2I_SEARCH kind=folder ;;
    A2I_VOCABULARY) variable=A2I_VOCABULARY kind=folder ;;
    A2I_REPLACEMENTS) variable=A2I_REPLACEMENTS kind=folder ;;
    A2I_STYLES) variable=A2I_STYLES kind=folder ;;
    A2I_STYLE) variable=A2I_STYLE kind=text ;;
    A2I_LLM) variable=A2I_LLM kind=text ;;
    A2I_LLM_MODEL) variable=A2I_LLM_MODEL kind=text ;;
    A2I_LLM_KEY) variable=A2I_LLM_KEY kind=text ;;
    A2I_SPOKEN_OPTIONS) variable=A2I_SPOKEN_OPTIONS kind=switch ;;
    A2I_VOICE) variable=A2I_VOICE kind=place ;;
    A2I_LOW_MEMORY) variable=A2I_LOW_MEMORY kind=switch ;;
    A2I_COMPUTE_UNITS) variable=A2I_COMPUTE_UNITS kind=text ;;
    A2I_APPLE_PYTHON) variable=A2I_APPLE_PYTHON kind=place ;;
    A2I_ALLOW_PICKLE) variable=A2I_ALLOW_PICKLE kind=switch ;;
    A2I_EVENTS) variable=A2I_EVENTS kind=place ;;
    A2I_SESSION) variable=A2I_SESSION kind=folder ;;
    A2I_CONTROL) variable=A2I_CONTROL kind=folder ;;
    *) return 1 ;;
  esac
}
