"""States in memory: forks come from them, and a program goes back to them."""
