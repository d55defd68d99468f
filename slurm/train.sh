#!/bin/bash -l
# One entry point as a job: sbatch slurm/train.sh distill -P config=configs/distill/cifar100.yaml -P seed=1
#SBATCH --job-name=train
#SBATCH --output=logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --time=08:00:00
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
##SBATCH --partition=gpu
##SBATCH --gres=gpu:1
# Two minutes before the time limit the run saves its state; the same command continues it.
#SBATCH --signal=B:USR1@120

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit with sbatch from the folder of the project}"
# module load python/3.12
source .venv/bin/activate

entry=${1:?name an entry point, such as spoter, pamap2, distill or profiler}
shift
mlflow run . -e "$entry" --env-manager local --experiment-name "${entry%%-*}" "$@" &
task=$!
# To the task and not to mlflow, which would die at once and leave nobody to wait for the task's end.
trap 'pkill -USR1 -P "$task"' USR1
wait "$task" || wait "$task"
