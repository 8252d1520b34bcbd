#!/usr/bin/env bash
# Starts Open WebUI as the official image does: HOST, PORT, UVICORN_WORKERS, WEBUI_SECRET_KEY(_FILE).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ -z ${WEBUI_SECRET_KEY:-} && -z ${WEBUI_JWT_SECRET_KEY:-} ]]; then
  key_file=${WEBUI_SECRET_KEY_FILE:-.webui_secret_key}
  if [[ ! -s $key_file ]]; then
    echo "open-webui image: no WEBUI_SECRET_KEY, making one in $key_file"
    (umask 077; head -c 12 /dev/random | base64 > "$key_file")
  fi
  WEBUI_SECRET_KEY=$(<"$key_file")
  export WEBUI_SECRET_KEY
fi
exec python3 -m uvicorn open_webui.main:app --host "${HOST:-0.0.0.0}" --port "${PORT:-8080}" \
  --forwarded-allow-ips "${FORWARDED_ALLOW_IPS:-*}" --workers "${UVICORN_WORKERS:-1}" --ws auto "$@"
