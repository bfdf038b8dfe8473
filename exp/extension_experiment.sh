#!/usr/bin/env bash
# Another model (Qwen2-7B) and another workload (BurstGPT). Two runs, then a page with both.
# Arguments go to both block-exp run, but not --out. OUT=DIR takes another folder than run/exp.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${OUT:-run/exp}"
names=(qwen burstgpt)
for name in "${names[@]}"; do
  .venv/bin/block-exp run "config/exp/$name.yaml" --out "$out/$name" "$@"
done
exec .venv/bin/block-exp results "${names[@]/#/$out/}" --page "${PAGE:-$out/extension.md}"
