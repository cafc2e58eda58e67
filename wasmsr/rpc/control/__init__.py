"""The control of a node over gRPC: its service, gRPC's own services, and the client."""
