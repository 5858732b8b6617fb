# Schema-checked (parsed), not applied. The same rights as infra/secrets.sh gives the object store's keys.
locals {
  # What each role reads and writes, by bucket.
  rights = {
    mlflow     = { read = ["artifacts"], write = ["artifacts"] }
    reader     = { read = ["store", "ledger"], write = [] }
    researcher = { read = ["store", "ledger"], write = ["store"] }
    promoter   = { read = ["store", "ledger"], write = ["store", "ledger"] }
  }
}

data "aws_iam_policy_document" "trust" {
  for_each = local.rights
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${var.oidc_issuer}:sub"
      values   = ["system:serviceaccount:${var.service_accounts[each.key]}"]
    }
    condition {
      test     = "StringEquals"
      variable = "${var.oidc_issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "rights" {
  for_each = local.rights
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [for bucket in each.value.read : aws_s3_bucket.this[bucket].arn]
  }
  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [for bucket in each.value.read : "${aws_s3_bucket.this[bucket].arn}/*"]
  }
  # No s3:DeleteObjectVersion for anybody: what was deleted can be brought back until the lifecycle takes it.
  dynamic "statement" {
    for_each = length(each.value.write) > 0 ? [each.value.write] : []
    content {
      sid       = "Write"
      actions   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
      resources = [for bucket in statement.value : "${aws_s3_bucket.this[bucket].arn}/*"]
    }
  }
}

resource "aws_iam_role" "this" {
  for_each           = local.rights
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust[each.key].json
}

resource "aws_iam_role_policy" "this" {
  for_each = local.rights
  name     = "buckets"
  role     = aws_iam_role.this[each.key].id
  policy   = data.aws_iam_policy_document.rights[each.key].json
}
