"""The page Leaderboard: which method wins."""
