"""Every test of this folder starts from the same seed."""

from tests.seed import same_seed as same_seed
