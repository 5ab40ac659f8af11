#!/usr/bin/env bash
# The first ten minutes on a real GPU: the checks, the figures, and one table of them.
#
#   benchmarks/first_ten_minutes.sh [FOLDER]         # results go to FOLDER, default benchmarks/results
#   benchmarks/first_ten_minutes.sh --dry [FOLDER]   # the same commands at toy size, also without a GPU
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD
dry=; if [ "${1:-}" = --dry ]; then dry=1; shift; fi
name=$(python -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")')
name=$(echo "$name" | tr 'A-Z ' 'a-z-')
out=${1:-benchmarks/results}; mkdir -p "$out"
log=$out/first_ten_minutes-$name.txt; : > "$log"
runs=$(mktemp -d); trap 'rm -rf "$runs"' EXIT

declare -a table
step() {  # step NAME COMMAND...: run it, keep its output, note its end and its seconds
    local what=$1 begun=$SECONDS code; shift
    printf '\n== %s: %s\n' "$what" "$*" | tee -a "$log"
    "$@" >> "$log" 2>&1; code=$?
    table+=("$(printf '%-34s %-6s %5d s' "$what" "$([ $code = 0 ] && echo ok || echo "exit $code")" $((SECONDS - begun)))")
}
sweep() {  # sweep NAME WORDS...: two variants on CIFAR-10, or digits in a dry run
    local what=$1; shift
    step "sweep, $what" python -m samtune run sgd sam --runs "$runs" --name "$what" --no-confirm \
        --set budget.kind=epochs --set "budget.per_trial=$epochs" --set "budget.trials=$trials" \
        --set asha.grace=1 "${task[@]}" "$@"
}
if [ -n "$dry" ]; then
    epochs=2 trials=2 gpus=0 task=(--set task.train_size=0.2) device=cpu
    loop=(--small --side-by-side 2)
else
    epochs=6 trials=8 gpus=1 device=cuda loop=(--compile --graph --side-by-side 4)
    task=(--set task.dataset=cifar10 --set task.model=resnet18 --set task.augment=standard
          --set task.batch_size=128)
    step "nvidia-smi" nvidia-smi
fi
step "doctor" python -m samtune doctor
step "tests on the device" python -m pytest -m cuda -n 0 -q ${dry:+-k test_on_cuda_auto}
step "one step" python -m benchmarks.step --quick --device "$device" ${dry:+--variants sgd --rounds 1} --json "$out/step-$name.json"
step "the loop" python -m benchmarks.loop "${loop[@]}" --json "$out/loop-$name.json"
step "checkpoints" python -m benchmarks.checkpoints ${dry:+--model small_cnn --rounds 1} --json "$out/checkpoints-$name.json"
sweep "whole" --set "resources.gpus=$gpus"
if [ -z "$dry" ]; then
    sweep "compiled" --set resources.gpus=1 --set task.compile=true
    sweep "graphs" --set resources.gpus=1 --set task.graph=true
    sweep "quarters" --set resources.gpus=0.25
    sweep "quarters-by-mps" --set resources.gpus=0.25 --set resources.gpu_sharing=mps
    step "resnet18, 30 epochs" python -m samtune run sgd sam --runs "$runs" --name long --no-confirm \
        --set budget.kind=epochs --set budget.per_trial=30 --set budget.trials=1 \
        --set resources.gpus=0.5 "${task[@]}"
fi
{ printf '\n%-34s %-6s %7s\n' "first ten minutes on $name" end time; printf '%s\n' "${table[@]}"
  printf '\n'; grep -E '^(loop|samtune|DataLoader|bare|aim)[ :]' "$log"
  printf '\nall output: %s\n' "$log"; } > "$runs/table"
cat "$runs/table" | tee -a "$log"
