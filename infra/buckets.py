"""The stack's buckets: made where they are missing, versioned, with a lifecycle; refused where they ignore conditions.

    python buckets.py --bucket wsss-store --bucket wsss-ledger [--days 30]

Endpoint and credentials are boto3's: AWS_ENDPOINT_URL, AWS_SHARED_CREDENTIALS_FILE.
"""

from __future__ import annotations

import argparse
from typing import Any

from botocore.exceptions import ClientError

UNSUPPORTED = ("NotImplemented", "MethodNotAllowed", "501", "405")


def main(arguments: list[str] | None = None) -> None:
    """Bring the buckets to what they have to be, or say what the store can't."""
    import boto3

    from wsss import storage
    from wsss.errors import UserError

    parser = argparse.ArgumentParser(description="Buckets for a team's stack.")
    parser.add_argument("--bucket", action="append", required=True)
    parser.add_argument("--days", type=int, default=30, help="How long versions that were overwritten or deleted stay.")
    options = parser.parse_args(arguments)
    client = boto3.client("s3")
    for bucket in options.bucket:
        make(client, bucket)
        protect(client, bucket, options.days)
        try:
            # After versioning: some stores keep conditions only on buckets without it.
            storage.check_exclusive_writes(f"s3://{bucket}")
        except UserError as error:
            raise SystemExit(str(error)) from None
        print(f"s3://{bucket} is versioned and keeps conditions")


def make(client: Any, bucket: str) -> None:
    """Make a bucket that is not there."""
    region = client.meta.region_name
    place = {} if region in (None, "us-east-1") else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise SystemExit(f"s3://{bucket} can't be read: {error}; are these the administrator's keys?") from None
        client.create_bucket(Bucket=bucket, **place)


def protect(client: Any, bucket: str, days: int) -> None:
    """Keep what is overwritten or deleted for some days, and no parts of uploads that were given up."""
    try:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    except ClientError as error:
        if error.response["Error"]["Code"] not in UNSUPPORTED:
            raise
    if client.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        raise SystemExit(f"s3://{bucket} keeps no versions, so a deletion could not be taken back; use another store")
    rule = {
        "ID": "wsss",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": days},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    }
    try:
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    except ClientError as error:
        if error.response["Error"]["Code"] not in UNSUPPORTED:
            raise
        print(f"s3://{bucket}: this store has no lifecycles; old versions stay until you remove them")


if __name__ == "__main__":
    main()
