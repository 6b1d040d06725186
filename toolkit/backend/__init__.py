"""The only modules that know a device library."""
