"""Conversion of trained models to streaming artifacts."""
