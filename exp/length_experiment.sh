#!/usr/bin/env bash
# Table 1: how well response lengths are estimated. Needs rows of prompt and response in a folder.
# Usage: exp/length_experiment.sh DATA [arguments of block-length evaluate]
set -euo pipefail
cd "$(dirname "$0")/.."
data="${1:?name a folder with a data.jsonl of prompts and responses}"
shift
exec .venv/bin/block-length evaluate --data "$data" "$@"
