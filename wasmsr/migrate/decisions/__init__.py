"""Who decides that a program has another owner: the source's journal, or a register."""
