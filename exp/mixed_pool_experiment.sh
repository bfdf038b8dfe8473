#!/usr/bin/env bash
# Eight A30s and two A100s: latency and capacity of every policy.
# Arguments go to block-exp run.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/block-exp run config/exp/mixed_pool.yaml --out run/exp/mixed_pool "$@"
