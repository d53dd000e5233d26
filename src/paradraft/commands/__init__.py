"""One file a command: its options, what it calls in the library, what it prints; heavy imports stay inside."""
