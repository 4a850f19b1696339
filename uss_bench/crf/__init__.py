"""Dense conditional random fields: probabilities sharpened along the edges of the image.

The model is that of Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with
Gaussian Edge Potentials", NIPS 2011, with the defaults of the STEGO lineage in `CrfParams`. The
engine is this package's own and needs no compiler; its label maps are tested against those of
pydensecrf, which stays available as ``engine="pydensecrf"``.

`refine` treats one image, `CrfPool` a stream of them on several threads. Importing this package imports
neither torch nor numba, so that ``--help`` starts fast.
"""

from uss_bench.crf.engines import Engine, refine
from uss_bench.crf.pool import CrfPool
from uss_bench.protocol import CrfParams

__all__ = ["CrfParams", "CrfPool", "Engine", "refine"]
