#!/usr/bin/env bash
# The pipeline on all nodes of one Slurm job. The folder of the project, its data and .venv must be on a disk that all nodes see.
#
#   sbatch --nodes=4 deploy/slurm.sh                                  a Ray worker for each GPU, each with the whole model
#   sbatch --nodes=4 --export=ALL,SERVE=4 deploy/slurm.sh             for models larger than a GPU: vLLM on each node, 4 GPUs a copy
#   sbatch --nodes=4 deploy/slurm.sh --file_name=news --concurrency=64     further flags go to run_all.py
#
# Submit it again, with the same flags, to go on: no finished reply is asked for twice. Five minutes before its time ends the
# job stops in order and puts itself back into the queue. OPENAI_API_KEY, where a server asks for one, comes from the environment.
#
#SBATCH --job-name=syn_pipelines
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

CONFIG=${CONFIG:-deploy/pipeline.yaml}
PORT=${PORT:-6379}   # of Ray's head; two jobs on one node need two
SERVE=${SERVE:-0}    # GPUs that share one copy of the model, 0: no servers
gpus=${SLURM_GPUS_ON_NODE:-0}

cd "${SLURM_SUBMIT_DIR:-.}"
if [[ -f .venv/bin/activate ]]; then
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi

one=(srun --overlap --nodes=1 --ntasks=1)  # one task on one node, beside the others that are there

await() {  # wait until a command works, for as long as the process lives that it waits for
  local process=$1
  shift
  until "$@" >/dev/null 2>&1; do
    kill -0 "$process" 2>/dev/null || { echo "slurm.sh: ended before this worked: $*" >&2; exit 1; }
    sleep "${PAUSE:-3}"
  done
}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$("${one[@]}" --nodelist="$head" hostname --ip-address)
address=${address%% *}
export RAY_ADDRESS="$address:$PORT" RAY_USAGE_STATS_ENABLED=0
# Who knows this token may run programs on the cluster: others on these nodes do not. It is the job's own.
token=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-$token}"

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT  # Ray and the servers end with this script
flags=()
if ((SERVE > 0)); then  # each worker asks the server on its own node
  model=${MODEL:-$(sed -n 's/^model_from_pretrained: *\([^ ]*\).*/\1/p' "$CONFIG")}
  for node in "${nodes[@]}"; do
    "${one[@]}" --nodelist="$node" vllm serve "$model" --port=8000 --tensor-parallel-size="$SERVE" --data-parallel-size="$((gpus / SERVE))" &
    servers+=("$!")
  done
  for i in "${!nodes[@]}"; do
    await "${servers[i]}" "${one[@]}" --nodelist="${nodes[i]}" curl --silent --fail http://localhost:8000/health
  done
  flags=(--backend=openai --base_url=http://localhost:8000/v1 --model_from_pretrained="$model" --gpus_per_worker=0
         --num_workers="${#nodes[@]}" --cpus_per_worker="${SLURM_CPUS_PER_TASK:-1}" --concurrency=256)  # a whole node each
fi

cluster=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="$gpus" --block)
"${one[@]}" --nodelist="$head" ray start --head --node-ip-address="$address" --port="$PORT" --include-dashboard=false "${cluster[@]}" &
ray_head=$!
await "$ray_head" ray status --address="$RAY_ADDRESS"
for node in "${nodes[@]:1}"; do
  "${one[@]}" --nodelist="$node" ray start --address="$RAY_ADDRESS" "${cluster[@]}" &
done
# shellcheck disable=SC2329
all_there() { (($(ray status --address="$RAY_ADDRESS" | grep -c ' node_') >= ${#nodes[@]})); }
await "$ray_head" all_there  # the number of workers is chosen by the nodes that are there when a step begins

python syn_pipelines/run_all.py --config="$CONFIG" --engine=ray --ray_address="$RAY_ADDRESS" "${flags[@]}" "$@" &
pipeline=$!
trap 'kill -TERM "$pipeline"' TERM                   # scancel: stop in order
trap 'requeue=1; kill -TERM "$pipeline"' USR1        # the time is over: go on in the next job
code=0
while true; do  # a trapped signal ends wait before the process has ended
  wait "$pipeline" && code=0 || code=$?
  kill -0 "$pipeline" 2>/dev/null || break
done
if ((${requeue:-0} && code)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
