"""Where a snapshot comes from, who vouches for it, and under which limits it runs."""
