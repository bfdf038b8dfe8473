#!/usr/bin/env bash
# Another model (Qwen2-7B) and another workload (BurstGPT). Two runs; each ends with a line of JSON.
# Arguments go to both block-exp run, but not --out.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in qwen burstgpt; do
  .venv/bin/block-exp run "config/exp/$name.yaml" --out "run/exp/$name" "$@"
done
