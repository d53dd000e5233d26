"""One file for each command: its options and what it prints. Functions import what is slow, to keep --help fast."""
