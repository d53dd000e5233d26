"""From files to batches: conversations, rendering by chat template, bucketing."""
