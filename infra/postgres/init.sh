#!/bin/sh
# Run by the image when the database is empty: a role and a database for MLflow, one for the searches' studies.
#
# psql reads the passwords itself: as arguments they would show in the process list.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set mlflow `cat /run/secrets/mlflow_db_password`
\set studies `cat /run/secrets/studies_db_password`
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE ROLE wsss LOGIN PASSWORD :'studies';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
CREATE DATABASE studies OWNER wsss;
REVOKE CONNECT ON DATABASE mlflow, mlflow_auth, studies, postgres FROM PUBLIC;
SQL
