"""Who may speak to a node, and what a node takes: certificates, tokens and the policy."""
