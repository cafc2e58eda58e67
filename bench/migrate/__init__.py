"""What a move between two ends costs, on lines that are made for it, beside its limits."""
