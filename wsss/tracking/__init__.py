"""What is kept of a run in MLflow, and under which names."""
