"""Noticing that numbers moved: golden runs that are repeated, and claims that are held against records."""
