#!/usr/bin/env bash
# Let the first-time costs of a running cluster pass before it is measured.
# Usage: exp/warmup.sh [URL] [arguments of block-exp bench serve]
set -euo pipefail
cd "$(dirname "$0")/.."
url="${1:-http://127.0.0.1:8000/v1}"
shift || true
exec .venv/bin/block-exp bench serve --url "$url" --workload generated --requests 60 --rate 4 "$@"
