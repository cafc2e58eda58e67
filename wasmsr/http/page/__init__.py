"""The page of a node, for people: programs, their call stacks and output, and what to do."""
