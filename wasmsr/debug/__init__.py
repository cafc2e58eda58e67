"""What a person sees of a saved program who looks for a fault in it."""
