#!/bin/sh
# Makes a database cluster in $PGDATA if there is none, and becomes PostgreSQL.
set -eu
: "${POSTGRES_PASSWORD:?the password of the user postgres}"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    umask 077
    # Made beside and renamed: a pod killed in between starts over.
    rm -rf "$PGDATA.new"
    printf '%s\n' "$POSTGRES_PASSWORD" > /tmp/password
    initdb --pgdata="$PGDATA.new" --username=postgres --pwfile=/tmp/password \
        --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    rm /tmp/password
    echo 'host all all all scram-sha-256' >> "$PGDATA.new/pg_hba.conf"
    mv "$PGDATA.new" "$PGDATA"
fi
unset POSTGRES_PASSWORD
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
