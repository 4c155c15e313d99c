"""A model for longer texts than it was trained on: its RoPE base made larger once, and fixed.

Servers that scale the base while they run apply one base to all lengths or another to each, as they please. So the
variant is a model of its own: a config.json with the base that dynamic NTK would have at the new length, beside the very
same weights. It is evaluated, judged and released like any other (report §5.2.6 measures the 7B at 200K).
"""

import orjson

from tokenmill.deployment.config import ExtendConfig
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, step
from tokenmill.steps.files import store_file

CONFIG = "config.json"


@step("deployment.extend", version=1, kinds={"weights": "weights"})
def extend(config: ExtendConfig, weights: Manifest, ctx: StepContext) -> Draft:
    """The same weights under a config with a longer context and the RoPE base for it; no tensor is read or copied."""
    from tokenmill.model.config import InternLM2Config, dynamic_ntk_base

    if weights.step == "deployment.extend":  # the base of a base is none that anything was measured with
        raise InputError(f"{weights.digest[:12]} was extended already: extend the model that it was made from")
    values = orjson.loads(ctx.store.bytes_of(weights.shard(CONFIG)))
    shape = InternLM2Config.from_json(orjson.dumps(values).decode())
    trained = shape.max_position_embeddings
    if config.context <= trained:
        raise InputError(
            f"{weights.digest[:12]} reads {trained:,} tokens already; deployment.extend.context ({config.context:,}) must "
            "be more"
        )
    scaled = dynamic_ntk_base(config.context, shape.rope_theta, config.factor, trained, shape.head_dim)
    longer = {
        "rope_theta": config.rope_theta or scaled,
        "rope_scaling": None,
        "max_position_embeddings": config.context,
    }
    path = ctx.workdir / CONFIG
    path.write_bytes(orjson.dumps(values | longer, option=orjson.OPT_INDENT_2))
    ctx.log.info("extended", trained=trained, rope_theta_before=shape.rope_theta, **longer)
    others = (shard for shard in weights.shards if shard.name != CONFIG)
    shards = sorted((*others, store_file(ctx.store, path, CONFIG)), key=lambda shard: shard.name)
    return Draft(kind="weights", shards=tuple(shards), counts={"context": config.context, "trained_context": trained})
