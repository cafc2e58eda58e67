"""Where inputs come from: one file for each source, and `staging`, which has the table."""
