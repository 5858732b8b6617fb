"""The page Masks: one image under many runs and steps."""
