"""The configuration file, its overlay from the environment, and the values it may hold."""
