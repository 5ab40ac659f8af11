#!/bin/bash
# A sweep on two nodes, put back in the queue when its time is up, until it is done:
#   sbatch docs/recipes/slurm.sh asam.yaml asam
#SBATCH --job-name=samtune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
space=$1 name=$2
runs=${SAMTUNE_RUNS:-$PWD/runs}
port=$((20000 + SLURM_JOB_ID % 20000))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# All nodes show each other one token, which no other user can read.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/.ray-token-$SLURM_JOB_ID
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --port="$port" --include-dashboard=false --block &
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 --exclude="$head" \
    ray start --address="$head:$port" --block &
fi
until ray status --address "$head:$port" > /dev/null 2>&1; do sleep 2; done

# With the name of a run that was stopped, `run` goes on with it.
sweep=
trap '[ -z "$sweep" ] || kill -TERM "$sweep"' USR1 TERM
samtune run "$space" --name "$name" --runs "$runs" --address "$head:$port" --quiet &
sweep=$!
wait "$sweep"
code=$?
# A trapped signal ends the first wait before the sweep has stopped.
while kill -0 "$sweep" 2> /dev/null; do
  wait "$sweep"
  code=$?
done
rm -f "$RAY_AUTH_TOKEN_PATH"
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
