#!/bin/sh
# Makes the secrets of a stack, each a file of one folder (infra/secrets by default); what is there stays.
#
#   sh infra/secrets.sh [FOLDER]
#
# The folder is for its owner alone, its files are for everybody: a container of another user id sees the file that is
# mounted, and nobody else comes past the folder.
set -eu
folder=${1:-$(dirname "$0")/secrets}
umask 022
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

random() { openssl rand -hex "${1:-32}"; }
once() { # once FILE: standard input becomes FILE, unless there is one
    if [ -e "$1" ]; then cat > /dev/null; else cat > "$1.part" && mv "$1.part" "$1" && echo "made $1"; fi
}
s3_key() { # s3_key NAME: what boto3, DVC, MLflow and Ray read by AWS_SHARED_CREDENTIALS_FILE
    printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$1" "$(random)" | once "s3_$1"
}
account() { # account NAME: what an MLflow client reads as ~/.mlflow/credentials
    printf '[mlflow]\nmlflow_tracking_username = %s\nmlflow_tracking_password = %s\n' "$1" "$(random)" | once "account_$1"
}

for name in postgres_password mlflow_db_password studies_db_password mlflow_secret_key mlflow_admin_password ray_token; do
    random | once "$name"
done
random | once serve_keys
random | once dashboard_keys
for name in admin mlflow reader researcher promoter; do s3_key "$name"; done
for name in serving researcher promoter; do account "$name"; done

# The same keys for the object store, with what each may do. The ledger is written by promoters alone.
identity() { # identity NAME ACTION...
    name=$1
    shift
    secret=$(sed -n 's/^aws_secret_access_key = //p' "s3_$name")
    actions=$(printf '"%s",' "$@")
    printf '{"name": "%s", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": [%s]}' \
        "$name" "$name" "$secret" "${actions%,}"
}
reads="Read:wsss-store List:wsss-store Read:wsss-ledger List:wsss-ledger"
writes="Write:wsss-store Tagging:wsss-store"
# The lists are words of the actions.
# shellcheck disable=SC2086
printf '{"identities": [\n%s,\n%s,\n%s,\n%s,\n%s\n]}\n' \
    "$(identity admin Admin Read Write List Tagging)" \
    "$(identity mlflow Read:wsss-artifacts Write:wsss-artifacts List:wsss-artifacts Tagging:wsss-artifacts)" \
    "$(identity reader $reads)" \
    "$(identity researcher $reads $writes)" \
    "$(identity promoter $reads $writes Write:wsss-ledger)" | once s3_identities.json
