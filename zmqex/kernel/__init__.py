"""Puts the pure parts together: events in, effects out."""
