"""Reports: training runs, evaluations and generated images side by side, as Markdown and as one HTML file.

`sources` reads what folders hold, `report` makes blocks of it (`evaluations`, `training_runs`), `blocks` renders them.
"""
