"""Jobs: a file that says what to run, what goes in, what comes out, and what it may use."""
