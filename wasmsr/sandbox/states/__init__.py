"""States of sandboxes: prepared ones, saved ones and parked ones."""
