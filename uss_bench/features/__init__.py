"""Frozen features: extraction, storage, reading."""
