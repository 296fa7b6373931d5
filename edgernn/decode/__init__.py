"""Scores to events."""
