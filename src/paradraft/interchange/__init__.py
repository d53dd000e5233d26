"""Drafters in and out of the layouts that others publish."""
