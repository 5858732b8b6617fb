"""The stack for a team: as configuration, and without containers (`infra.stack`)."""
