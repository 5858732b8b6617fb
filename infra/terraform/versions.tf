# The parts of a stack that AWS keeps: buckets, a database, roles. Schema-checked (parsed), not applied.
#
#   terraform init && terraform apply -var-file=team.tfvars
#
# No secret is in these files nor in the state: RDS makes the database's password and keeps it in Secrets Manager.
terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { application = "wsss", stack = var.name }
  }
}
