"""Every answer says which model gave it: ASGI middleware for `vllm … --middleware model_digest.ModelDigest`."""

import os
from pathlib import Path


class ModelDigest:
    """Adds `x-model-digest` to what the server answers; a stream passes through untouched."""

    def __init__(self, app):
        self.app = app
        file = os.environ.get("MODEL_DIGEST_FILE")
        digest = Path(file).read_text().strip() if file else os.environ["MODEL_DIGEST"]
        self.header = (b"x-model-digest", digest.encode())

    async def __call__(self, scope, receive, send):
        async def with_digest(message):
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message.get("headers", []), self.header]}
            await send(message)

        await self.app(scope, receive, with_digest if scope["type"] == "http" else send)
