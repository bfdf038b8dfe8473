#!/usr/bin/env bash
# Prompts that begin alike, on engines with prefix caches: who finds them, and what that is worth.
# Arguments go to block-exp run.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/block-exp run config/exp/mooncake.yaml --out run/exp/mooncake "$@"
