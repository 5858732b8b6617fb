"""The stages of a method as commands, for dvc.yaml and MLproject, and what is generated from the methods."""
