# SPDX-License-Identifier: MIT
"""Registration of the criterions. ``--user-dir`` does not look here: ``tasks`` imports them."""
