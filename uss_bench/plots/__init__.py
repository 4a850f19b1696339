"""Figures of records, in one style, from data that is computed apart from its drawing."""
