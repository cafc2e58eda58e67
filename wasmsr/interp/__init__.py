"""From bytes to a running machine.

In reading order: instructions, types, module, values, externs, machine, trace.
"""
