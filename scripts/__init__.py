"""What is done with the tree by commands: generators, builds of real programs, the demo."""
