"""Import paths that the first version of this service and the published checkpoint use."""
