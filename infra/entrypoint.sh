#!/bin/sh
# Runs a command with secrets out of files: READ_NAME=FILE makes NAME the content of FILE.
#
# For variables that no program reads from a file itself. A value in a compose file or a manifest would show in
# `docker inspect` and in whoever's copy of it; so only the file's name stands there.
set -eu
umask 027
for name in $(env | sed -n 's/^READ_\([A-Z][A-Z0-9_]*\)=.*/\1/p'); do
    eval "file=\$READ_$name"
    # shellcheck disable=SC2154 # eval sets it
    [ -r "$file" ] || { echo "READ_$name is $file, which can't be read; infra/secrets.sh makes it" >&2; exit 1; }
    value=$(cat "$file")
    [ -n "$value" ] || { echo "READ_$name is $file, which is empty; infra/secrets.sh makes it" >&2; exit 1; }
    export "$name=$value"
    unset "READ_$name"
done
exec "$@"
