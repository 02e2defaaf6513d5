"""`masters-edge ablate`: what each part of the method is worth, as a table over seeds.

A recipe goes in; its arms (the recipe with a few values changed) are trained with equal steps and equal sequences a
step, measured on the test questions, and compared seed by seed.
"""
