"""Measuring: prompts, plain and drafted decoding side by side, losslessness, reports."""
