"""wasmsr as other compilers build it, and with the portable loop: the same states of programs."""
