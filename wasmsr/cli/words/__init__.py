"""What the command says: messages, progress, and how a run ended."""
