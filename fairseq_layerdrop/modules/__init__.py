# SPDX-License-Identifier: MIT
"""What is dropped: masks, the layer list, sub-networks in memory. torch only."""

from fairseq_layerdrop.modules.layer_drop import LayerDropList
from fairseq_layerdrop.modules.subnetwork import depths, restrict, restricted

__all__ = ["LayerDropList", "depths", "restrict", "restricted"]
