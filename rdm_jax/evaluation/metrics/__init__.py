"""The field's metrics on arrays, one file for each family; statistics in float64, no network and no file."""
