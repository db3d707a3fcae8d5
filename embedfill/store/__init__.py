"""Write-once objects: the protocol, a directory, memory, object storage, the key layout and the local cache."""
