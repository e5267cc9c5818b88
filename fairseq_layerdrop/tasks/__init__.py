# SPDX-License-Identifier: MIT
"""Registration of the tasks: fairseq's own, with depth on demand; and of the criterions, where
nobody else looks.
"""

import fairseq_layerdrop.criterions.layerdrop_distill  # noqa: F401
