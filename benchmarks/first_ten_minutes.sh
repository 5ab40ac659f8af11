#!/usr/bin/env bash
# The first ten minutes on a real GPU: the checks, the figures, and one table of them.
#
#   benchmarks/first_ten_minutes.sh [--dry] [--data REFERENCE] [--out FOLDER] [PART...]
#
# Parts: checks loop sweeps long; without one, all. `long` is ResNet-18 for 30 epochs, in five ways.
# It goes on after a command that fails, and ends with 1 then.
#   --dry   the same commands at toy size, also without a GPU
#   --data  the images of the sweeps: cifar10 (default), or parquet:FOLDER
#   --out   where results go (default benchmarks/results)
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD
dry= data=cifar10 out=benchmarks/results parts=
while [ $# -gt 0 ]; do
    case $1 in
        --dry) dry=1 ;;
        --data) data=$2; shift ;;
        --out) out=$2; shift ;;
        checks|loop|sweeps|long) parts+=" $1" ;;
        *) echo "unknown: $1; the options and parts stand at the top of $0" >&2; exit 2 ;;
    esac
    shift
done
parts=${parts:-checks loop sweeps long}
name=$(python -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")')
name=$(echo "$name" | tr 'A-Z ' 'a-z-')
[ "$name" = cpu ] && gpu= || gpu=1
[ -n "$gpu$dry" ] || { echo "torch can use no GPU here: samtune doctor says why; --dry runs on the CPU" >&2; exit 5; }
mkdir -p "$out"
log=$out/first_ten_minutes-$name.txt; : > "$log"
runs=$(mktemp -d); trap 'rm -rf "$runs"' EXIT
# A sweep ends by itself on Ctrl-C, and the next one would begin.
trap 'echo "stopped; output so far: $log" >&2; exit 130' INT TERM

declare -a table
failed=0
step() {  # step NAME COMMAND...: run it, keep its output, note its end and its seconds
    local what=$1 begun=$SECONDS code; shift
    printf '\n== %s: %s\n' "$what" "$*" | tee -a "$log"
    "$@" >> "$log" 2>&1; code=$?
    [ $code = 0 ] || failed=1
    table+=("$(printf '%-34s %-8s %5d s' "$what" "$([ $code = 0 ] && echo ok || echo "exit $code")" $((SECONDS - begun)))")
}
sweep() {  # sweep NAME EPOCHS TRIALS WORDS...: sgd and sam on the images, or on digits in a dry run
    local what=$1 epochs=$2 trials=$3 words=(); shift 3
    for word in "${task[@]}" "$@"; do words+=(--set "$word"); done
    step "sweep, $what" python -m samtune run sgd sam --runs "$runs" --name "$what" --no-confirm \
        --set budget.kind=epochs --set "budget.per_trial=$epochs" --set "budget.trials=$trials" \
        --set asha.grace=1 "${words[@]}"
}
ways() {  # ways PREFIX EPOCHS TRIALS SHARE: the same sweep in each way that this machine has
    local before=$1 sizes=("$2" "$3") share=$4
    sweep "$before" "${sizes[@]}" "resources.gpus=${gpu:-0}"
    sweep "$before-compiled" "${sizes[@]}" "resources.gpus=${gpu:-0}" task.compile=true
    [ -n "$gpu" ] || return 0
    sweep "$before-graph" "${sizes[@]}" resources.gpus=1 task.graph=true
    sweep "$before-shared" "${sizes[@]}" "resources.gpus=$share"
    sweep "$before-mps" "${sizes[@]}" "resources.gpus=$share" resources.gpu_sharing=mps
}
if [ -n "$dry" ]; then
    task=(task.train_size=0.2) short=(2 2) full=(3 1)
    loop=(--small --side-by-side 2) quick=(--variants sgd --rounds 1) saved=(--model small_cnn --rounds 1)
else
    task=("task.dataset=$data" task.model=resnet18 task.augment=standard task.batch_size=128)
    short=(6 8) full=(30 1) loop=(--side-by-side 4) quick=() saved=()
fi
for part in $parts; do
    case $part in
        checks)
            [ -z "$gpu" ] || step "nvidia-smi" nvidia-smi
            step "doctor" python -m samtune doctor
            step "tests on the device" python -m pytest -m cuda -n 0 -q ${dry:+-k test_on_cuda_auto}
            step "one step" python -m benchmarks.step --quick --device "$([ -n "$gpu" ] && echo cuda || echo cpu)" \
                "${quick[@]}" --json "$out/step-$name.json"
            step "checkpoints" python -m benchmarks.checkpoints "${saved[@]}" --json "$out/checkpoints-$name.json" ;;
        loop)
            step "the loop" python -m benchmarks.loop --compile ${gpu:+--graph} "${loop[@]}" \
                --json "$out/loop-$name.json" ;;
        sweeps) ways short "${short[@]}" 0.25 ;;
        long) ways long "${full[@]}" 0.5 ;;
    esac
done
{ printf '\n%-34s %-8s %7s\n' "first ten minutes on $name" end time; printf '%s\n' "${table[@]}"
  printf '\n'; grep -E '^(loop|samtune|DataLoader|bare|aim)[ :]' "$log"
  printf '\n'; python -m benchmarks.run_speeds "$runs"
  printf '\nall output: %s\n' "$log"; } > "$runs/table" 2>&1
cat "$runs/table" | tee -a "$log"
exit $failed
