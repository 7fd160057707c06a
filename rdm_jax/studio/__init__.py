"""A local web page for generating images, with the neighbors at its center; see docs/studio.md.

`workshop` and what it imports know nothing of the page: they run jobs with the code of `rdm sample` and `rdm edit`. The
page (`page`) needs the extra "studio".
"""
