"""Grids over one or two options: an image for every pair of their values, on one labelled sheet.

    from rdm_jax.sweep.axes import read_axes
    from rdm_jax.sweep.plan import plan_sweep
    from rdm_jax.sweep.sheet import sheet

    axes = read_axes(["guidance_scale=1,3,9", "prompt=a red boat,a house"], generator)
    sweep = plan_sweep(generator, axes, database="neon", seed=7)
    results = [join(list(generator.generate(plan))) for plan in sweep.plans]
    sheet(sweep, [result.images for result in results])

Every cell is a run of its own with the same seed, so that a cell has the image of a run with its values. Cells that
differ in traced values alone (a scale, the seed, the prompt, the database, a guide's weight) have one program.
"""
