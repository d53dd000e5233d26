"""An OpenAI-compatible server for a target and its drafters, with a page that shows them at work."""
