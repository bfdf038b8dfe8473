#!/usr/bin/env bash
# Table 2: capacity with batches of 24 and 48, chunks of 512 and 2048.
# Arguments go to block-exp run.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/block-exp run config/exp/config_search.yaml --out run/exp/config_search "$@"
