"""Release and serving: from a verdict to an answering endpoint.

bundle → register (or find) → deploy → promote. A release pins what it is made of; serving refuses what differs.
"""

STEP_MODULES = ("bundle", "register", "find", "deploy", "promote")
