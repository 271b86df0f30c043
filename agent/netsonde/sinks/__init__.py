"""Destinations of rendered flow records: core NATS and JetStream."""
