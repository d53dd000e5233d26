"""An OpenAI-compatible server for a target and its drafters."""
