"""KFP components of release and serving."""

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.DEPLOYER, install_kfp_package=False)
def bundle(
    run: str,
    weights: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    evaluation: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    training_sets: dsl.Input[dsl.Artifact],
    release: dsl.Output[dsl.Model],
) -> None:
    """Weights in LLaMA layout with all that a server needs, pinned by digest; only what the gate passed."""
    from tokenmill.steps import run_component

    inputs = {"weights": weights, "tokenizer": tokenizer, "evaluation": evaluation, "verdict": verdict}
    inputs |= {"training_sets": training_sets}
    run_component("deployment.bundle", run, inputs=inputs, outputs={"output": release})


@dsl.component(base_image=images.DEPLOYER, install_kfp_package=False)
def attest(run: str, release: dsl.Input[dsl.Model], attestation: dsl.Output[dsl.Artifact]) -> None:
    """An SBOM, and a signature where this task has a key."""
    from tokenmill.steps import run_component

    run_component("deployment.attest", run, inputs={"release": release}, outputs={"output": attestation})


@dsl.component(base_image=images.DEPLOYER, install_kfp_package=False)
def register_release(
    run: str,
    alias: str,
    release: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    attestation: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
) -> None:
    """The release as a version in the model registry, under an alias."""
    from tokenmill.steps import run_component

    inputs, config = (
        {"model": release, "verdict": verdict, "attestation": attestation},
        {"role": "chat", "alias": alias},
    )
    run_component("deployment.register", run, inputs=inputs, outputs={"output": registration}, config=config)


@dsl.component(base_image=images.DEPLOYER, install_kfp_package=False)
def register_weights(
    run: str, role: str, alias: str, weights: dsl.Input[dsl.Model], registration: dsl.Output[dsl.Artifact]
) -> None:
    """A base or reward model as a version in the model registry."""
    from tokenmill.steps import run_component

    config, task = {"role": role, "alias": alias}, f"deployment.register.{role}"
    outputs = {"output": registration}
    run_component("deployment.register", run, inputs={"model": weights}, outputs=outputs, config=config, task=task)


@dsl.component(base_image=images.DEPLOYER, install_kfp_package=False)
def register_refused(
    run: str,
    weights: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
) -> None:
    """What the gate refused, under the alias `rejected` and with the verdict that says why. No other alias moves."""
    from tokenmill.steps import run_component

    inputs, outputs = {"model": weights, "verdict": verdict}, {"output": registration}
    config, task = {"role": "chat", "alias": "rejected"}, "deployment.register.refused"
    run_component("deployment.register", run, inputs=inputs, outputs=outputs, config=config, task=task)


@dsl.component(base_image=images.DEPLOYER, install_kfp_package=False)
def find_release(run: str, model: str, registration: dsl.Output[dsl.Artifact]) -> None:
    """What the registry says of `models:/name@alias`: the version that it is now."""
    from tokenmill.steps import run_component

    run_component("deployment.find", run, outputs={"output": registration}, config={"model": model})


@dsl.component(base_image=images.DEPLOYER, install_kfp_package=False)
def deploy(
    run: str,
    go: bool,
    release: dsl.Input[dsl.Model],
    registration: dsl.Input[dsl.Artifact],
    deployment: dsl.Output[dsl.Artifact],
) -> None:
    """Serve the release with vLLM, ask it, compare templates and greedy tokens; without `go` nothing is served."""
    from tokenmill.steps import run_component

    inputs, outputs = {"release": release, "registration": registration}, {"output": deployment}
    otherwise = {"output": registration}
    run_component("deployment.deploy", run, inputs=inputs, outputs=outputs, go=go, otherwise=otherwise)


@dsl.component(base_image=images.DEPLOYER, install_kfp_package=False)
def promote(
    run: str,
    go: bool,
    registration: dsl.Input[dsl.Artifact],
    deployment: dsl.Input[dsl.Artifact],
    promotion: dsl.Output[dsl.Artifact],
) -> None:
    """Move the serving alias to a version whose smoke test passed, or back."""
    from tokenmill.steps import run_component

    inputs, outputs = {"registration": registration, "deployment": deployment}, {"output": promotion}
    otherwise = {"output": registration}
    run_component("deployment.promote", run, inputs=inputs, outputs=outputs, go=go, otherwise=otherwise)
