"""The page Compare, and the same comparison in a file: where and why runs differ."""
