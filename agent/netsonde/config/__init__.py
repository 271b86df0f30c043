"""The configuration file, its overlay from the environment, and the types of its values."""
