"""The instruction set as tables: instructions, features and traps."""
