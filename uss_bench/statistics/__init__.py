"""How far the scores of a run may be trusted: resampled images, intervals, and paired comparisons."""
