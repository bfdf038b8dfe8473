#!/usr/bin/env bash
# Figures 6 and 7: latency, overhead, throughput, preemptions and capacity over load, heuristics and ours.
# Arguments go to block-exp run: --quick, --backend emulated, --out DIR, --workers N, ...
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/block-exp run config/exp/main.yaml --out run/exp/main "$@"
