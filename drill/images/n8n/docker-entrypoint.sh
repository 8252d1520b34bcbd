#!/bin/sh
# As the official image: the arguments are n8n's own; a mounted directory adds certificates.
if [ -d /opt/custom-certificates ]; then
  export NODE_OPTIONS="--use-openssl-ca ${NODE_OPTIONS:-}"
  export SSL_CERT_DIR=/opt/custom-certificates
  c_rehash /opt/custom-certificates 2>/dev/null || true
fi
if [ "$#" -gt 0 ]; then
  exec n8n "$@"
fi
exec n8n
