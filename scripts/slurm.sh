#!/usr/bin/env bash
# sbatch scripts/slurm.sh configs/digits_mlp.yaml [--KEY VALUE ...]
#
# Edit: nodes, GPUs, time, and whatever your cluster asks for (partition, account).
#SBATCH --job-name=fulgurite
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4        # one process for each GPU
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.out
# Two minutes before its time is up the job saves a checkpoint and goes back to the queue. Its next
# turn has the same number, so it finds the run folder, runs/CONFIG-NUMBER, and goes on there.
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"

# Compute nodes often have no internet. Before the first job, on the login node: `make train` builds
# .venv, and a fit with --trainer.fast_dev_run true downloads the data. After it: `wandb sync`.
export WANDB_MODE="${WANDB_MODE:-offline}"
export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"

config="${1:?give a config: sbatch scripts/slurm.sh configs/NAME.yaml}"
code=0
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" .venv/bin/python -m src fit \
    --config "$config" --config configs/trainer/slurm.yaml \
    --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" \
    --run "$(basename "$config" .yaml)-$SLURM_JOB_ID" --resume auto "${@:2}" || code=$?
if [ "$code" = 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi  # interrupted, and saved
exit "$code"
