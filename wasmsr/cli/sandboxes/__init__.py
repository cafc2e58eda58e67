"""Commands of sandboxes."""
