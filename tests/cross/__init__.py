"""wasmsr on other CPUs: aarch64, and s390x with its other byte order, under qemu-user."""
