"""The agent as a process: parts, signals, health, privileges, shutdown."""
