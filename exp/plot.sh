#!/usr/bin/env bash
# Draw the figures of a run's folder anew. Usage: exp/plot.sh run/exp/main
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:?name the folder of a run}"
exec .venv/bin/block-exp run "$folder/spec.yaml" --out "$folder" --plot-only
