#!/bin/bash
# Trains the small research model with seeds 0 and 1 at the same time, each on a CUDA device, and measures both on them.
#
#   training/smol/two_seeds.sh [options] FONTS BASE DATA OUT
#
# FONTS  folder with FreeMonoBold.ttf and LiberationSans-Regular.ttf
# BASE   the base's GGUF file
# DATA   folder of the benchmarks: overlap check, more harmful requests (contrast/harmful_train.json) and measuring
# OUT    seed0/ and seed1/ (corpus, stages, delta.safetensors, model/), seed0.json and seed1.json (counts), seed0.log
#        and seed1.log (all that is said), SHA256SUMS of the deltas
#
# --seed N         this seed alone, on device 0
# --minutes M      measuring ends M minutes after the start (35); training is never cut
# --words FILE     word list for word salad (/usr/share/dict/american-english)
# --device D       cuda or cpu (cuda)
# --set NAME=N     changes the recipe
# --corpus FILE    stored corpus; the base answers only what is not in there
# --only-train     measures nothing
# --limit N        measures so many items of a set
#
# PYTHON names the interpreter (python). No network and no lmms-eval. What is finished is not done again, so a
# run that was cut goes on when it is started with the same OUT: training after its last finished stage, measuring
# after its last condition.
set -euo pipefail

usage() { sed -n '2,23s/^# \{0,1\}//p' "$0" >&2; exit 2; }

seeds=(0 1) minutes=35 words=/usr/share/dict/american-english device=cuda train=() measure=() only_train=
while [[ ${1-} == --* ]]; do
  [[ $1 == --only-train || $# -ge 2 ]] || usage
  case $1 in
    --seed) seeds=("$2") ;;
    --minutes) minutes=$2 ;;
    --words) words=$2 ;;
    --device) device=$2 ;;
    --set) train+=(--set "$2") ;;
    --corpus) train+=(--corpus "$(realpath -m "$2")") ;;
    --limit) measure+=(--limit "$2") ;;
    --only-train) only_train=1; shift; continue ;;
    *) usage ;;
  esac
  shift 2
done
[[ $# -eq 4 && $minutes =~ ^[0-9]+$ && ${seeds[0]} =~ ^[0-9]+$ ]] || usage
mkdir -p "$4"
fonts=$(realpath -m "$1") base=$(realpath -m "$2") data=$(realpath -m "$3") out=$(realpath -m "$4") words=$(realpath -m "$words")
needed=("$fonts/FreeMonoBold.ttf" "$fonts/LiberationSans-Regular.ttf" "$base" "$data/contrast/harmful_train.json" "$words")
for path in "${needed[@]}"; do
  [[ -r $path ]] || { echo "$path is missing" >&2; exit 2; }
done
python=${PYTHON:-python}
cd "$(dirname "$0")/../.."
"$python" -c 'import gguf, rapidfuzz, safetensors, torch, transformers, yaml'
if [[ $device == cuda ]]; then
  "$python" -c 'import sys, torch; n, found = int(sys.argv[1]), torch.cuda.device_count()
sys.exit(found < n and f"CUDA devices needed: {n}, found: {found}")' ${#seeds[@]}
  train+=(--compile --answer-batch 4096)
fi

export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 SHIFTDC_FONT=$fonts
cores=$(($(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) / ${#seeds[@]}))  # nproc tells OMP_NUM_THREADS instead
workers=$((cores > 16 ? 15 : cores > 1 ? cores - 1 : 1))
# what is wanted of a recipe first, the random directions last
sets=figstep_text,mm_typo,figstep,xstest_safe,twins,self_check,shielded,figstep_captions,yes_no,reading,figstep_tiny
sets+=,typo_twins,mm_text,xstest_unsafe,contrast_test,mossbench_text,twins_text,picture_judged,ecso_captions,system
sets+=,two_pictures

one_seed() { # all steps of one seed on its own device
  local seed=$1 folder=$out/seed$1
  [[ $device == cpu ]] || export CUDA_VISIBLE_DEVICES=$2
  if [[ ! -f $folder/delta.safetensors ]]; then
    "$python" -m training.smol.train --out "$folder" --seed "$seed" --base "$base" --fonts "$fonts" --data "$data" \
      --requests "$data/contrast/harmful_train.json" --words "$words" --device "$device" --workers "$workers" \
      --seconds tower=200 --seconds language=80 --seconds reading=400 --seconds joint=540 "${train[@]}" || return
  fi
  [[ -z $only_train ]] || return 0
  [[ -d $folder/model ]] || "$python" -m shiftdc_eval.backbones.bundled.smol_cli \
    --delta "$folder/delta.safetensors" --base "$base" --out "$folder/model" || return
  local left=$((minutes * 60 - SECONDS))
  ((left > 0)) || { echo "no time is left to measure"; return 0; }
  local code=0
  timeout "$left" "$python" -m training.smol.measure "$folder/model" --data "$data" --out "$out/seed$seed.json" \
    --sets $sets --tokens 64 --caption-tokens 64 --batch-size 256 --device "$device" \
    "${measure[@]}" || code=$?
  ((code != 124)) || { echo "measuring was cut after $minutes minutes"; code=0; }
  return "$code"
}

running=() failed=0
for at in "${!seeds[@]}"; do
  one_seed "${seeds[at]}" "$at" >>"$out/seed${seeds[at]}.log" 2>&1 &
  running+=($!)
done
for at in "${!seeds[@]}"; do
  log=$out/seed${seeds[at]}.log
  wait "${running[at]}" || { failed=1; echo "seed ${seeds[at]} failed; see $log" >&2; tail -n 1 "$log" >&2; }
done
shopt -s nullglob
cd "$out"
deltas=(seed*/delta.safetensors) counts=("$out"/seed*.json)
((${#deltas[@]} == 0)) || sha256sum "${deltas[@]}" | tee SHA256SUMS
cd - >/dev/null
((${#counts[@]} == 0)) || "$python" -m training.smol.measure --table "${counts[@]}"
exit $failed
