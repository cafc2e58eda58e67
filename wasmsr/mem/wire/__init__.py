"""The wire of memory elements: commands, and the frames that carry them."""
