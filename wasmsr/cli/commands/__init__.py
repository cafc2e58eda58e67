"""The subcommands as click has them."""
