"""Label maps as things of their own: made in one stream, laid out, exported, pushed."""
