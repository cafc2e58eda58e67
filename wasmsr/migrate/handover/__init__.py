"""The hand-over: its two halves, and an end that plays both."""
