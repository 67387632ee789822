"""What `make deploy`, `make rollback` and `make prune-versions` do."""
