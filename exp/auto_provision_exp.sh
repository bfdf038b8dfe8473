#!/usr/bin/env bash
# Strategies of provisioning: GPU-hours against SLO misses, in the paper's setting and over a day.
# Arguments go to block-exp provision: --quick, --out DIR, --data DIR
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/block-exp provision config/provisioning/auto_provision.yaml --out run/exp/auto_provision "$@"
