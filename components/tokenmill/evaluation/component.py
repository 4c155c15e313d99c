"""KFP components of evaluation and the gate."""

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def prepare_questions(
    run: str,
    corpus: dsl.Input[dsl.Dataset],
    tokens: dsl.Input[dsl.Dataset],
    questions: dsl.Output[dsl.Dataset],
    reference: dsl.Input[dsl.Dataset] = None,
    conversations: dsl.Input[dsl.Dataset] = None,
) -> None:
    """Suites with verifiable answers from what no model of this run is trained on."""
    from tokenmill.steps import run_component

    inputs = {"corpus": corpus, "tokens": tokens, "reference": reference, "conversations": conversations}
    run_component("evaluation.prepare", run, inputs=inputs, outputs={"output": questions})


@dsl.component(base_image=images.EVALUATOR, install_kfp_package=False)
def evaluate(
    run: str,
    label: str,
    form: str,
    weights: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    questions: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
    task: str = "",
) -> None:
    """One model on every suite: perplexity, choices, generated answers, format, contamination deltas."""
    from tokenmill.steps import run_component

    inputs = {"weights": weights, "tokenizer": tokenizer, "questions": questions}
    config, name = {"label": label, "form": form}, f"evaluation.evaluate.{task or label}"
    run_component("evaluation.evaluate", run, inputs=inputs, outputs={"output": evaluation}, config=config, task=name)


@dsl.component(base_image=images.EVALUATOR, install_kfp_package=False)
def choose_datasets(
    weights: str,
    tokenizer: str,
    datasets: list,
    tasks: list,
    served: dsl.Output[dsl.Model],
    words: dsl.Output[dsl.Artifact],
) -> list:
    """What a loop asks: datasets of the store, tasks of lm-eval; beside it the model that is asked, and its tokenizer."""
    from tokenmill.errors import told_in_one_line
    from tokenmill.evaluation.hub import loop_items
    from tokenmill.model.exchange import model_of
    from tokenmill.steps.component import hand_on, write_pointer
    from tokenmill.store import open_store

    with told_in_one_line():
        store = open_store()
        model = model_of(store, weights, tokenizer)
        write_pointer(store, model["tokenizer"], words)
        write_pointer(store, model["weights"], served) if weights else hand_on(None, served)
        return loop_items(store, datasets, tasks)


@dsl.component(base_image=images.EVALUATOR, install_kfp_package=False)
def evaluate_endpoint(
    run: str,
    url: str,
    model: str,
    form: str,
    questions: str,
    lm_eval: str,
    suffix: str,
    weights: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    evaluation: dsl.Output[dsl.Artifact],
    judge_url: str = "",
) -> None:
    """A served model on one dataset, or on one task of lm-eval, over HTTP: as a model in a process is asked."""
    from tokenmill.steps import run_component

    step, execution = "evaluation.evaluate_endpoint", {"url": url, "judge": {"url": judge_url}}
    config = {"model": model, "form": form, "execution": execution}
    inputs = {"weights": weights, "tokenizer": tokenizer, "questions": questions}
    if lm_eval:
        step, config["tasks"] = "evaluation.lm_eval", [lm_eval]
        del inputs["questions"]
    run_component(step, run, inputs=inputs, outputs={"output": evaluation}, config=config, task=f"{step}{suffix}")


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def board(
    run: str,
    evaluations: dsl.Input[list[dsl.Artifact]],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Models and suites on one page, with confidence intervals."""
    from tokenmill.steps import run_component

    run_component("evaluation.board", run, inputs={"evaluations": evaluations}, outputs={"output": page})


@dsl.component(base_image=images.DEPLOYER, install_kfp_package=False)
def current_model(
    run: str,
    candidate: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    weights: dsl.Output[dsl.Model],
    words: dsl.Output[dsl.Artifact],
) -> None:
    """The model in use and its tokenizer; the candidate's own where there is none."""
    from tokenmill.steps import run_component

    inputs, outputs = {"weights": candidate, "tokenizer": tokenizer}, {"weights": weights, "tokenizer": words}
    run_component("evaluation.current", run, inputs=inputs, outputs=outputs)


@dsl.component(base_image=images.EVALUATOR, install_kfp_package=False)
def follow(
    run: str,
    short: dsl.Input[dsl.Artifact],
    long: dsl.Input[dsl.Artifact],
    tokenizer: dsl.Input[dsl.Artifact],
    questions: dsl.Input[dsl.Dataset],
    course: dsl.Output[dsl.Artifact],
) -> None:
    """The weights that pretraining kept of its way, on a light suite: scores against tokens, and drops beyond chance."""
    from tokenmill.steps import run_component

    inputs = {"kept": [short, long], "tokenizer": tokenizer, "questions": questions}
    run_component("evaluation.follow", run, inputs=inputs, outputs={"output": course})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def compare(
    run: str,
    task: str,
    before: dsl.Input[dsl.Artifact],
    after: dsl.Input[dsl.Artifact],
    comparison: dsl.Output[dsl.Artifact],
) -> None:
    """What a stage of training gave and took, a capability group."""
    from tokenmill.steps import run_component

    inputs, outputs = {"before": before, "after": after}, {"output": comparison}
    run_component("evaluation.compare", run, inputs=inputs, outputs=outputs, task=task)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def collect_training_sets(run: str, weights: dsl.Input[dsl.Model], training_sets: dsl.Output[dsl.Artifact]) -> None:
    """Walk the lineage: everything whose text the model was trained on, at any stage of its life."""
    from tokenmill.steps import run_component

    run_component(
        "evaluation.collect_training_sets", run, inputs={"weights": weights}, outputs={"output": training_sets}
    )


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def check_contamination(
    run: str,
    training_sets: dsl.Input[dsl.Artifact],
    questions: dsl.Input[dsl.Dataset],
    contamination: dsl.Output[dsl.Artifact],
) -> None:
    """Which questions stand in what the model was trained on: word for word, reworded, with their answers."""
    from tokenmill.steps import run_component

    inputs = {"training_sets": training_sets, "questions": questions}
    run_component("evaluation.contamination", run, inputs=inputs, outputs={"output": contamination})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def gate(
    run: str,
    candidate: dsl.Input[dsl.Artifact],
    base: dsl.Input[dsl.Artifact],
    sft: dsl.Input[dsl.Artifact],
    current: dsl.Input[dsl.Artifact],
    contamination: dsl.Input[dsl.Artifact],
    training_sets: dsl.Input[dsl.Artifact],
    tokenizer: dsl.Input[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> bool:
    """Judge the candidate against its limits, its references, the model in use and its lineage; whether it passed."""
    from tokenmill.steps import run_component

    inputs = {"candidate": candidate, "references": [base, sft], "current": current, "decontamination": contamination}
    inputs |= {"training_sets": training_sets, "tokenizer": tokenizer}
    judged = run_component("evaluation.gate", run, inputs=inputs, outputs={"output": verdict, "page": page})
    return bool(judged["output"].counts["passed"])
