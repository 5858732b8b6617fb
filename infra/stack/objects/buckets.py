"""Requests about buckets: making them, what they keep, and lists of what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from starlette.responses import Response

from infra.stack.objects.content import Asked
from infra.stack.objects.keys import RefusedError
from infra.stack.objects.shelf import LAST, Shelf, Stored
from infra.stack.objects.xml import Tree, document, parsed, quoted, text, when

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MOST = 1000


def answer(shelf: Shelf, asked: Asked) -> Response:
    """The answer to a request about a bucket, or about all."""
    words = asked.words.keys()
    if not asked.bucket:
        names = [("Bucket", [("Name", name), ("CreationDate", when(made))]) for name, made in shelf.buckets()]
        return _xml("ListAllMyBucketsResult", [("Buckets", names)])
    match asked.method:
        case "HEAD":
            shelf.setting(asked.bucket)
            return Response()
        case "GET":
            return _get(shelf, asked)
        case "POST" if "delete" in words:
            return _delete(shelf, asked)
        case "DELETE" if "lifecycle" in words:
            shelf.set(asked.bucket, "days", None)
            return Response(status_code=204)
        case "DELETE" if not words:
            shelf.remove(asked.bucket)
            return Response(status_code=204)
        case "PUT":
            return _put(shelf, asked)
    raise RefusedError(501, "NotImplemented", "this server has no such thing")


def _get(shelf: Shelf, asked: Asked) -> Response:
    words = asked.words.keys()
    versioning, days = shelf.setting(asked.bucket)
    if "location" in words:
        return _xml("LocationConstraint", [])
    if "versioning" in words:
        return _xml("VersioningConfiguration", [("Status", versioning)] if versioning else [])
    if "lifecycle" in words:
        if days is None:
            raise RefusedError(404, "NoSuchLifecycleConfiguration", "the bucket has no lifecycle")
        expiration = [("NoncurrentVersionExpiration", [("NoncurrentDays", days)])]
        rule = [("ID", "wsss"), ("Status", "Enabled"), ("Filter", [("Prefix", "")]), *expiration]
        return _xml("LifecycleConfiguration", [("Rule", rule)])
    if "versions" in words:
        return _versions(shelf, asked)
    if words & {"acl", "policy", "cors", "encryption", "tagging", "uploads", "object-lock", "website", "replication"}:
        raise RefusedError(501, "NotImplemented", "this server has no such thing")
    return _keys(shelf, asked)


def _put(shelf: Shelf, asked: Asked) -> Response:
    words = asked.words.keys()
    if not words:
        if not _NAME.fullmatch(asked.bucket):
            raise RefusedError(400, "InvalidBucketName", "3 to 63 small letters, digits, dots and dashes make a name")
        shelf.make(asked.bucket)
    elif "versioning" in words:
        status = text(parsed(asked.document), "Status")
        if status not in ("Enabled", "Suspended"):
            raise RefusedError(400, "MalformedXML", "versioning is Enabled or Suspended")
        shelf.set(asked.bucket, "versioning", status)
    elif "lifecycle" in words:
        shelf.set(asked.bucket, "days", _days(asked.document))
    else:
        raise RefusedError(501, "NotImplemented", "this server has no such thing")
    return Response()


def _days(body: bytes) -> int:
    """How long old versions stay, of the one rule that this server knows."""
    tree = parsed(body)
    days, rules = text(tree, "NoncurrentDays"), tree.findall("{*}Rule")
    others = {"Expiration", "Transition", "NoncurrentVersionTransition"}
    if len(rules) != 1 or not days.isdecimal() or any(each.tag.rpartition("}")[2] in others for each in rules[0]):
        raise RefusedError(501, "NotImplemented", "one rule is known: NoncurrentVersionExpiration for the whole bucket")
    return int(days)


def _delete(shelf: Shelf, asked: Asked) -> Response:
    tree = parsed(asked.document)
    deleted: list[tuple[str, Tree]] = []
    for each in tree.iterfind("{*}Object"):
        key, version = text(each, "Key"), text(each, "VersionId")
        shelf.delete(asked.bucket, key, version)
        deleted.append(("Deleted", [("Key", key)]))
    return _xml("DeleteResult", [] if text(tree, "Quiet") == "true" else deleted)


def _keys(shelf: Shelf, asked: Asked) -> Response:
    """ListObjectsV2, and V1 for clients that still ask so."""
    words = asked.words
    second = words.get("list-type") == "2"
    prefix, delimiter, encoding = words.get("prefix", ""), words.get("delimiter", ""), words.get("encoding-type", "")
    begun = words.get("continuation-token") or words.get("start-after", "") if second else words.get("marker", "")
    count = _count(words)
    found: list[tuple[str, Tree]] = []
    last, more = begun, False
    for name, stored in _walk(shelf, asked.bucket, prefix, delimiter, begun):
        if len(found) == count:
            more = True
            break
        last = name
        if stored is None:
            found.append(("CommonPrefixes", [("Prefix", quoted(name, encoding))]))
            last = name + LAST
        else:
            found.append(("Contents", [("Key", quoted(name, encoding)), *_told(stored)]))
    tree: list[tuple[str, object]] = [
        ("Name", asked.bucket),
        ("Prefix", quoted(prefix, encoding)),
        ("MaxKeys", count),
        ("IsTruncated", more),
    ]
    tree += [("Delimiter", quoted(delimiter, encoding))] if delimiter else []
    tree += [("EncodingType", encoding)] if encoding else []
    tree += [("KeyCount", len(found))] if second else []
    if more:
        tree.append(("NextContinuationToken", last) if second else ("NextMarker", quoted(last, encoding)))
    return _xml("ListBucketResult", [*tree, *found])


def _walk(shelf: Shelf, bucket: str, prefix: str, delimiter: str, after: str) -> Iterator[tuple[str, Stored | None]]:
    """Keys in order, each with its object; those that share what comes before a delimiter as one name, without."""
    while True:
        found = shelf.keys(bucket, prefix, after, _MOST)
        for stored in found:
            head, mark, _ = stored.key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if mark:
                name = prefix + head + mark
                yield name, None
                after = name + LAST
                break  # what follows below the same name is not looked at
            yield stored.key, stored
            after = stored.key
        else:
            if len(found) < _MOST:
                return


def _versions(shelf: Shelf, asked: Asked) -> Response:
    words = asked.words
    if words.get("delimiter"):
        raise RefusedError(501, "NotImplemented", "versions are listed without a delimiter")
    prefix, encoding, count = words.get("prefix", ""), words.get("encoding-type", ""), _count(words)
    key, version = words.get("key-marker", ""), words.get("version-id-marker", "")
    after = (key, shelf.number(asked.bucket, key, version) if version else 0)
    found = shelf.versions(asked.bucket, prefix, after, count + 1)
    tree: list[tuple[str, object]] = [
        ("Name", asked.bucket),
        ("Prefix", quoted(prefix, encoding)),
        ("MaxKeys", count),
        ("IsTruncated", len(found) > count),
    ]
    tree += [("EncodingType", encoding)] if encoding else []
    if len(found) > count and count:
        tree += [("NextKeyMarker", quoted(found[count - 1].key, encoding))]
        tree += [("NextVersionIdMarker", found[count - 1].version)]
    for stored in found[:count]:
        own = [("Key", quoted(stored.key, encoding)), ("VersionId", stored.version), ("IsLatest", stored.latest)]
        if stored.marker:
            tree.append(("DeleteMarker", [*own, ("LastModified", when(stored.modified))]))
        else:
            tree.append(("Version", [*own, *_told(stored)]))
    return _xml("ListVersionsResult", tree)


def _told(stored: Stored) -> list[tuple[str, object]]:
    return [
        ("LastModified", when(stored.modified)),
        ("ETag", stored.etag),
        ("Size", stored.size),
        ("StorageClass", "STANDARD"),
    ]


def _count(words: dict[str, str]) -> int:
    text = words.get("max-keys", str(_MOST))
    if not text.isdecimal():
        raise RefusedError(400, "InvalidArgument", "max-keys is a number")
    return min(int(text), _MOST)


def _xml(root: str, tree: Tree) -> Response:
    return Response(document(root, tree), media_type="application/xml")
