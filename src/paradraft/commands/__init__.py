"""What the `data` commands do: look at data, have the target answer prompts, write features to disk."""
