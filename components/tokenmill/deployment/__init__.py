"""Release and serving: from a verdict to an answering endpoint.

bundle → attest → register (or find) → deploy → promote. A release pins what it is made of; serving refuses what differs.
"""

STEP_MODULES = ("extend", "bundle", "attest", "register", "find", "deploy", "promote")
