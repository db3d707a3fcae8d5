"""Who runs batches: the HTTP client, a profile per provider, and the local engine as a process."""
