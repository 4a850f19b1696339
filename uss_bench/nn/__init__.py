"""What several methods share, one small module each. Loops, and losses of one method, stay in the method.

A method imports the modules that it uses: ``from uss_bench.nn.projector import Projector``. The digest of
its code then covers these modules and no others, so that a helper for one method leaves the records of the
rest valid. Facts and constants are those of the STEGO lineage; every function says which.
"""
