"""An S3 server of one process that keeps its data: for a stack without containers, on one machine.

    python -m infra.stack.objects FOLDER --port 8333 --keys s3_identities.json

It has what MLflow, DVC, boto3 and `wsss.storage` use of S3: signatures, keys with rights, buckets with versions and a
lifecycle, conditions (If-None-Match, If-Match) on either kind of bucket, uploads in parts, ranges, links. What it lacks
it refuses. No store in a package registry keeps data, versions and conditions at once (docs/decisions.md).
"""
