# Schema-checked (parsed), not applied.
variable "name" {
  description = "What the stack is called; buckets are NAME-artifacts, NAME-store and NAME-ledger, unique in all of AWS."
  type        = string
}

variable "region" {
  description = "The AWS region, such as eu-central-1."
  type        = string
}

variable "vpc_id" {
  description = "The network that MLflow and Ray run in."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets of it in at least two zones, for the database."
  type        = list(string)
}

variable "client_security_group_ids" {
  description = "The security groups of what may reach the database: MLflow's and the Ray heads'."
  type        = list(string)
}

variable "oidc_provider_arn" {
  description = "The cluster's OIDC provider, by which its pods take the roles (EKS: IAM roles for service accounts)."
  type        = string
}

variable "oidc_issuer" {
  description = "That provider's issuer, without https://."
  type        = string
}

variable "service_accounts" {
  description = "NAMESPACE:NAME of the service account that takes each role."
  type        = map(string)
  default = {
    mlflow     = "wsss:mlflow"
    reader     = "wsss:reader"
    researcher = "wsss:researcher"
    promoter   = "wsss:promoter"
  }
}

variable "database_class" {
  description = "The database's instance class; docs/operations.md says what needs more."
  type        = string
  default     = "db.t4g.medium"
}

variable "database_gigabytes" {
  description = "The database's disk at first; it grows to four times that by itself."
  type        = number
  default     = 50
}

variable "deletion_protection" {
  description = "Whether the database can't be destroyed before this is false."
  type        = bool
  default     = true
}

variable "noncurrent_days" {
  description = "How long versions of objects stay that were overwritten or deleted; the ledger's stay ten times as long."
  type        = number
  default     = 30
}
