#!/usr/bin/env bash
# Table 1: how well response lengths are estimated. Needs rows of prompt and response in a folder.
# Usage: exp/length_experiment.sh DATA [arguments of block-length evaluate]; OUT=DIR takes the figure elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
data="${1:?name a folder with a data.jsonl of prompts and responses}"
shift
out="${OUT:-run/exp/length}"
mkdir -p "$out"
echo "figure: $out/lengths.png" >&2
exec .venv/bin/block-length evaluate --data "$data" --figure "$out/lengths.png" "$@"
