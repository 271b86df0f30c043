"""Requests in, replies and events out."""
