"""How requests are run by other servers."""
