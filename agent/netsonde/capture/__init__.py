"""The host's capture session: checks and plan of a start, the session, its record pump."""
