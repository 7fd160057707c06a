"""Open icon sets: the same subjects in hundreds of styles, drawn from the npm package of Iconify."""
