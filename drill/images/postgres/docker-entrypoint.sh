#!/usr/bin/env bash
# Prepares an empty data directory as the official image does, then becomes the server.
# Variables: POSTGRES_PASSWORD, POSTGRES_USER, POSTGRES_DB, POSTGRES_INITDB_ARGS (each also as NAME_FILE),
# POSTGRES_INITDB_WALDIR, POSTGRES_HOST_AUTH_METHOD, PGDATA; scripts in /docker-entrypoint-initdb.d.
set -Eeuo pipefail

fail() { printf 'postgres image: %s\n' "$*" >&2; exit 1; }

# from_file NAME DEFAULT: NAME, or the content of the file that NAME_FILE names.
from_file() {
  local name=$1 file_name="$1_FILE"
  if [[ -n ${!name:-} && -n ${!file_name:-} ]]; then
    fail "both $name and $file_name are set; set one."
  fi
  local value=${!name:-$2}
  if [[ -n ${!file_name:-} ]]; then
    value=$(<"${!file_name}") || fail "$file_name names ${!file_name}, which cannot be read by uid $(id -u)."
  fi
  export "$name=$value"
  unset "$file_name"
}

wants_help() {
  local argument
  for argument; do
    case $argument in -'?' | --help | --describe-config | -V | --version) return 0 ;; esac
  done
  return 1
}

prepare_directories() {
  mkdir -p "$PGDATA" || fail "cannot create $PGDATA as uid $(id -u); give the mounted directory to uid 999."
  chmod 00700 "$PGDATA" 2>/dev/null || true  # A mount of another owner: initdb and the server decide.
  mkdir -p /var/run/postgresql
  if [[ $(id -u) == 0 ]]; then
    find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
    find /var/run/postgresql \! -user postgres -exec chown postgres '{}' +
    if [[ -n ${POSTGRES_INITDB_WALDIR:-} ]]; then
      mkdir -p "$POSTGRES_INITDB_WALDIR"
      chown -R postgres "$POSTGRES_INITDB_WALDIR"
    fi
  fi
}

create_cluster() {
  local -a arguments=(--username="$POSTGRES_USER" --pwfile=/dev/fd/3)
  if [[ -n ${POSTGRES_INITDB_WALDIR:-} ]]; then
    arguments+=(--waldir "$POSTGRES_INITDB_WALDIR")
  fi
  # Written as the caller would in a shell, quotes included; as in the official image.
  eval 'initdb "${arguments[@]}" '"${POSTGRES_INITDB_ARGS:-}" 3< <(printf '%s\n' "$POSTGRES_PASSWORD")
  local method=${POSTGRES_HOST_AUTH_METHOD:-$(postgres -D "$PGDATA" -C password_encryption "${@:2}")}
  printf '\nhost all all all %s\n' "$method" >> "$PGDATA/pg_hba.conf"
}

sql() { PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --no-password --no-psqlrc "$@"; }

run_scripts() {
  local script
  for script in /docker-entrypoint-initdb.d/*; do
    case $script in
      *.sh) echo "running $script"; if [[ -x $script ]]; then "$script"; else . "$script"; fi ;;
      *.sql) echo "running $script"; sql --dbname "$POSTGRES_DB" -f "$script" ;;
      *.sql.gz) echo "running $script"; gunzip -c "$script" | sql --dbname "$POSTGRES_DB" ;;
      */'*') ;;
      *) echo "ignoring $script" ;;
    esac
  done
}

initialise() {
  from_file POSTGRES_PASSWORD ''
  from_file POSTGRES_USER postgres
  from_file POSTGRES_DB "$POSTGRES_USER"
  from_file POSTGRES_INITDB_ARGS ''
  if [[ -z $POSTGRES_PASSWORD && ${POSTGRES_HOST_AUTH_METHOD:-} != trust ]]; then
    fail 'the data directory is empty and no superuser password is given; set POSTGRES_PASSWORD_FILE.'
  fi
  create_cluster "$@"
  export PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD}
  # Only the socket listens until everything is in place, so that nobody takes it for ready.
  local options="-c listen_addresses='' -p 5432"
  if (($# > 1)); then
    options+=" $(printf '%q ' "${@:2}")"
  fi
  pg_ctl --pgdata "$PGDATA" --silent --wait --options "$options" start
  if [[ $POSTGRES_DB != postgres ]]; then
    sql --dbname postgres --set database="$POSTGRES_DB" <<< 'CREATE DATABASE :"database";'
  fi
  run_scripts
  pg_ctl --pgdata "$PGDATA" --mode fast --silent --wait stop
  unset PGPASSWORD POSTGRES_PASSWORD
  echo 'postgres image: the data directory is initialised.'
}

if [[ ${1:-postgres} == -* ]]; then
  set -- postgres "$@"
fi
if [[ ${1:-} == postgres ]] && ! wants_help "$@"; then
  prepare_directories
  if [[ $(id -u) == 0 ]]; then
    exec setpriv --reuid postgres --regid postgres --init-groups "${BASH_SOURCE[0]}" "$@"
  fi
  if [[ ! -s $PGDATA/PG_VERSION ]]; then
    initialise "$@"
  fi
fi
exec "$@"
