"""The page Registry: who is champion and why."""
