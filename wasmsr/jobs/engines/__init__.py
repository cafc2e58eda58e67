"""What runs executions for the service of jobs: this machine, or nodes on other servers."""
