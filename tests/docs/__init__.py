"""The documents are true: what they show is typed, and does what they say."""
