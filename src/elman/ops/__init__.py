"""Pure functions on tensors. Each has a definition of the same signature in `ops.reference`."""

from elman.ops.elman import elman as elman
from elman.ops.gru import gru as gru
from elman.ops.linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from elman.ops.linear_scan import linear_scan as linear_scan
from elman.ops.lstm import lstm as lstm
