"""One file per framework, one row per framework in the registry."""
