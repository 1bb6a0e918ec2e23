"""Pure functions on tensors. Each has a definition of the same arguments in `ops.reference`."""

from elman.ops.elman import elman as elman
from elman.ops.gated_sum import mingru as mingru
from elman.ops.gated_sum import minlstm as minlstm
from elman.ops.gru import gru as gru
from elman.ops.linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from elman.ops.lstm import lstm as lstm
from elman.ops.mlstm import mlstm as mlstm
from elman.ops.parallel_scan import parallel_scan as parallel_scan
from elman.ops.sampled_softmax import sampled_softmax as sampled_softmax
from elman.ops.slstm import slstm as slstm
