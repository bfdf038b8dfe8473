#!/usr/bin/env bash
# All simulated figures and tables of the paper, one run after the other, then a page with all of them.
# Arguments go to every block-exp run: --quick, --workers N. OUT=DIR takes another folder than run/paper.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${OUT:-run/paper}"
names=(main prediction config_search qwen burstgpt power_of_k burstiness noise mixed_pool)
reuse=()  # what one figure shows need not be simulated for another; measured cells are each their own
for name in "${names[@]}"; do
  .venv/bin/block-exp run "config/exp/$name.yaml" --out "$out/$name" "${reuse[@]}" "$@"
  [[ " $* " == *" --backend"* ]] || reuse+=(--reuse "$out/$name")
done
quick=()
[[ " $* " != *" --quick "* ]] || quick=(--quick)
.venv/bin/block-exp provision config/provisioning/auto_provision.yaml --out "$out/auto_provision" "${quick[@]}"
exec .venv/bin/block-exp results "${names[@]/#/$out/}" --page "${PAGE:-$out/results.md}"
