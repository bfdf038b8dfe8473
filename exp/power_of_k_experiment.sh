#!/usr/bin/env bash
# How much is lost by asking two or four of the twelve predictors.
# Arguments go to block-exp run.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/block-exp run config/exp/power_of_k.yaml --out run/exp/power_of_k "$@"
