#!/usr/bin/env bash
# What beats the best heuristic when lengths are known badly. Several runs, then a page with all of them.
# Arguments go to every block-exp run. OUT=DIR takes another folder than run/beyond.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${OUT:-run/beyond}"
names=(beyond_batch24 beyond_default beyond_pool beyond_burst beyond_mix beyond_azure)
for name in "${names[@]}"; do
  .venv/bin/block-exp run "config/exp/$name.yaml" --out "$out/$name" "$@"
done
exec .venv/bin/block-exp results "${names[@]/#/$out/}" --page "${PAGE:-$out/results.md}"
