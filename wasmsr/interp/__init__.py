"""From bytes to a running machine; in reading order: instructions, types, module, machine, trace."""
