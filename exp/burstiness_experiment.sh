#!/usr/bin/env bash
# How every policy takes burstier and more even arrivals: P99 TTFT as a map.
# Arguments go to block-exp run.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/block-exp run config/exp/burstiness.yaml --out run/exp/burstiness "$@"
