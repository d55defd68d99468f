#!/bin/bash -l
# The analyses of what has finished: sbatch slurm/analysis.sh distill-analysis -P campaign=charlie
#SBATCH --job-name=analysis
#SBATCH --output=logs/%x-%j.log
#SBATCH --time=01:00:00
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit with sbatch from the folder of the project}"
# module load python/3.12
source .venv/bin/activate

entry=${1:?name an analysis, such as spoter-analysis, pamap2-analysis, distill-analysis or profiler-compare}
shift
exec mlflow run . -e "$entry" --env-manager local --experiment-name "${entry%%-*}" "$@"
