"""Where results go: one file for each publisher, and `publishing`, which has the table."""
