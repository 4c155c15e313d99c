"""Container images of the components. `tokenmill compile --registry … ` rewrites them; `images/` builds them."""

TAG = "0.1.0"
CURATION = f"tokenmill/curation:{TAG}"
TRAINER = f"tokenmill/trainer:{TAG}"
EVALUATOR = f"tokenmill/evaluator:{TAG}"
DEPLOYER = f"tokenmill/deployer:{TAG}"
