#!/bin/bash -l
# The test suite on a node, GPU tests included: sbatch --gres=gpu:1 slurm/tests.sh
#SBATCH --job-name=tests
#SBATCH --output=logs/%x-%j.log
#SBATCH --time=01:00:00
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit with sbatch from the folder of the project}"
# module load python/3.12
source .venv/bin/activate

# A node reaches no package index: install with `make test` on the login node first.
exec pytest -n 2 -m "not slow and not benchmark and not cluster and not browser" "$@"
