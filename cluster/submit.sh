#!/usr/bin/env bash
# Submit a search to a cluster whose dashboard is at $RAY_API_SERVER_ADDRESS (default: a tunnel on this machine).
#   cluster/submit.sh --space mini_interventions.yaml --suite /mnt/suites/b32 --out /mnt/studies/b32 --trials 2000
# The same line again goes on where the study stands: nothing that was trained is trained twice.
set -euo pipefail
export RAY_API_SERVER_ADDRESS="${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}"
if [[ -n "${RAY_AUTH_TOKEN:-}" || -f "${HOME}/.ray/auth_token" ]]; then
  export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
fi
# one CPU of the head for the driver; its trials run on the workers
exec ray job submit --runtime-env "$(dirname "$0")/runtime_env.yaml" --entrypoint-num-cpus 1 -- intervmerge-search "$@"
