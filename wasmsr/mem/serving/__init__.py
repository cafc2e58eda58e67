"""What serves a memory: its bytes, its clients, its sockets."""
