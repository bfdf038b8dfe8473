#!/usr/bin/env bash
# How much wrong lengths cost: P99 TTFT over load as a map.
# Arguments go to block-exp run.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/block-exp run config/exp/noise.yaml --out run/exp/noise "$@"
