"""How SQL gets into the Postgres of a container: psql inside it, with one ``docker exec`` per question.

The server is asked over TCP whether it is ready, because the image's first start runs a temporary
server that listens on the socket only and goes away again.
"""

from __future__ import annotations

import shlex
from typing import Final

from settings import names

# What the queries answer when the server ran before and does not now: that is for `service` to show.
STOPPED: Final = "stopped"

_EXEC: Final = "docker exec -i -u postgres -e PGCLIENTENCODING=UTF8"

# In the container. ask DATABASE: the SQL on standard input, the answer without decoration.
_ASK: Final = r"""
pg_isready --quiet --host 127.0.0.1 || exit 7
ask() { psql -X -q -A -t -v ON_ERROR_STOP=1 -U postgres -d "$1" -f -; }
"""

# In the container, $1 database, $2 query. A database that is absent answers {}.
_IN_DATABASE: Final = (
    _ASK
    + r"""
there=$(printf %s "select datname from pg_database" | ask postgres) || exit 7
printf "%s\n" "$there" | grep -qxF -- "$1" || { echo "{}"; exit 0; }
printf %s "$2" | ask "$1"
"""
)

# In the container. login ROLE DATABASE: one word; the password is the first line of standard input. It
# goes to the container's own address, since the image trusts 127.0.0.1, and insists on SCRAM, so that a
# server that trusts everybody does not look like a right password.
_LOGIN: Final = r"""
login() {
  IFS= read -r PGPASSWORD
  export PGPASSWORD PGREQUIREAUTH=scram-sha-256 PGCONNECT_TIMEOUT=5 LC_ALL=C
  h=$(hostname -i | cut -d " " -f 1)
  e=$(psql -X -q -A -t -w -h "$h" -U "$1" -d "$2" -c "select 1" 2>&1) && { echo ok; return; }
  case "$e" in
    *"authentication method requirement"*) echo trusted;;
    *"password authentication failed"*) echo denied;;
    # These come after the password was accepted.
    *"permission denied for database"*|*"does not have CONNECT privilege"*) echo ok;;
    *"database "*" does not exist"*) echo ok;;
    *"not permitted to log in"*) echo no-login;;
    *) echo denied;;
  esac
}
"""

# In the container, $1 role, $2 database to log in to, $3 query, $4 no-file if there is no password file.
_IN_ROLE: Final = (
    _ASK
    + _LOGIN
    + r"""
row=$(printf %s "$3" | ask postgres) || exit 7
word=$4; [ -n "$word" ] || word=$(login "$1" "$2")
printf "{\"role\": %s, \"login\": \"%s\"}\n" "${row:-null}" "$word"
"""
)

# On the host, $1 container, $2 seconds to wait. `question` is asked until it is answered; without an
# answer the script ends with "stopped" if a deploy has started the server before, else with null.
_ANSWER: Final = r"""
# ask Postgres (container, seconds to wait, ...)
c=$1 wait=$2
answer() {
  command -v docker >/dev/null 2>&1 || wait=0
  while [ "$wait" -gt 0 ]; do
    if o=$(question 2>/dev/null); then printf "%s\n" "$o"; exit 0; fi
    wait=$((wait-1)); [ "$wait" -eq 0 ] || sleep 1
  done
  if [ -f "APPLIED_DIR/droplet-$c.service" ]; then echo '"stopped"'; else echo null; fi
  exit 0
}
""".replace("APPLIED_DIR", names.APPLIED_DIR)

# After $2: $3 database, $4 query.
QUERY_DATABASE: Final = (
    _ANSWER
    + f"""
database=$3 query=$4
question() {{ {_EXEC} "$c" sh -c {shlex.quote(_IN_DATABASE)} sh "$database" "$query" </dev/null; }}
answer
"""
)

# After $2: $3 query, $4 role, $5 password file on the host, $6 database to log in to.
QUERY_ROLE: Final = (
    _ANSWER
    + f"""
query=$3 role=$4 file=$5 database=$6 word=
[ -r "$file" ] || {{ file=/dev/null; word=no-file; }}
question() {{
  {_EXEC} "$c" sh -c {shlex.quote(_IN_ROLE)} sh "$role" "$database" "$query" "$word" < "$file"
}}
answer
"""
)

# $1 container, $2 database, $3 what fails if it fails; SQL on standard input.
RUN: Final = f"""
# run SQL (container, database, what)
command -v docker >/dev/null 2>&1 || {{ echo "docker is not installed on the host" >&2; exit 1; }}
{_EXEC} "$1" psql -X -q -v ON_ERROR_STOP=1 -v VERBOSITY=terse -U postgres -d "$2" -f - >/dev/null && exit 0
echo "$3 failed on database $2; nothing of it was kept" >&2
exit 1
"""

# $1 container, $2 role, $3 password file, $4 database: the file must now log the role in.
CONFIRM_LOGIN: Final = f"""
# confirm a login (container, role, password file, database)
word=no-file
[ ! -r "$3" ] || word=$({_EXEC} "$1" sh -c {shlex.quote(_LOGIN + 'login "$1" "$2"')} sh "$2" "$4" < "$3")
case "$word" in
  ok) exit 0;;
  no-file) why="there is no file $3 on the host; write it with secret_file first";;
  trusted) why="Postgres asked for no password; pg_hba.conf must demand scram-sha-256";;
  no-login) why="the role lacks LOGIN";;
  *) why="the password in $3 is not the deploy's secret, or pg_hba.conf has no line for the role";;
esac
echo "the login of role $2 could not be confirmed: $why" >&2
exit 1
"""
