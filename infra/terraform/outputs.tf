# Schema-checked (parsed), not applied.
output "buckets" {
  description = "The buckets: WSSS_STORE is s3://STORE/steps, WSSS_LEDGER s3://LEDGER/ledger, MLflow's artifacts s3://ARTIFACTS."
  value       = { for name, bucket in aws_s3_bucket.this : name => bucket.bucket }
}

output "database_host" {
  description = "The database's address, PGHOST."
  value       = aws_db_instance.this.address
}

output "database_secret_arn" {
  description = "Where Secrets Manager has the database administrator's password."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}

output "role_arns" {
  description = "The roles, for the service accounts' annotation eks.amazonaws.com/role-arn."
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}
