"""The pages for comparing: a web application over MLflow, the registry, the ledger and the datasets."""
