#!/usr/bin/env bash
# Figure 5: the error of predictions over load, and how often truly the best of twelve was chosen.
# Arguments go to block-exp run.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/block-exp run config/exp/prediction.yaml --out run/exp/prediction "$@"
