#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Train on 2 nodes of 4 GPUs. One task a node: fairseq finds the nodes in SLURM's variables and starts a process a GPU.
# A job that is requeued goes on from its last checkpoint.
#   sbatch scripts/slurm/train.sh DATA SAVE_DIR [FLAGS]
#SBATCH --job-name=layerdrop
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
set -euo pipefail
DATA=${1:?the data set, in binary form}
SAVE_DIR=${2:?a folder that all nodes see}

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \
  fairseq-train "$DATA" --user-dir "$(fairseq-layerdrop user-dir)" \
  --distributed-world-size 8 --distributed-port $((20000 + SLURM_JOB_ID % 10000)) \
  --task layerdrop_translation --arch layerdrop_transformer --encoder-layerdrop 0.2 --decoder-layerdrop 0.2 \
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
  --optimizer adam --adam-betas '(0.9, 0.98)' --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 \
  --fp16 --max-tokens 4096 --max-update 100000 --seed 1 \
  --save-dir "$SAVE_DIR" --save-interval-updates 1000 --keep-interval-updates 2 --update-epoch-batch-itr True \
  --load-checkpoint-on-all-dp-ranks --no-epoch-checkpoints --no-progress-bar "${@:3}"
