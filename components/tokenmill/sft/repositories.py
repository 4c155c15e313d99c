"""Repositories as long conversations (report §4.3): files depth-first along their imports, asked for one after the other.

A sample is told what the repository is, then file by file what the next one is, and answers with it. It ends before the
file that would take it over the limit; that file begins the next sample.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.model.chat import encode
from tokenmill.model.conversation import ACTIONS
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import Record
from tokenmill.repositories.files import PROSE, Repository, files_by_path, markdown, with_prose
from tokenmill.repositories.imports import Edges, import_edges
from tokenmill.sft.config import RepositoriesConfig
from tokenmill.sft.read import identity
from tokenmill.steps import Drop, Keep, StepContext, step

Turn = dict[str, str]


@step("sft.repositories", version=1, kinds={"corpus": "corpus", "tokenizer": "tokenizer"})
def repositories(config: RepositoriesConfig, corpus: Manifest, tokenizer: Manifest, ctx: StepContext) -> Draft:
    """Conversations of a corpus's files of code, as curation has them before it joins them (`curation.tier_code`).

    The chosen repositories are held in memory, as are their conversations one repository at a time.

    Raises:
        InputError: the corpus holds no file of code, or its files are already joined.
    """
    words = Tokenizer.load(ctx.files(tokenizer))
    files: defaultdict[Repository, list[Record]] = defaultdict(list)
    for shard in corpus.shards:
        if shard.name.startswith("type=code/"):
            for record in ctx.records(corpus, shard):
                if "files" in record:
                    raise InputError("the corpus's files are already joined: give what curation.tier_code made")
                if not config.sources or record["source"] in config.sources:
                    files[Repository.of(record)].append(record)
    if not files:
        raise InputError("the corpus has no file of code of sft.repositories.sources: name sources of type code")
    samples = (
        outcome
        for repository in sorted(files)
        for outcome in Samples(repository, words, config.max_tokens).of(files[repository])
    )
    return ctx.partition(samples, kind="conversations", by=lambda record: "repositories")


def depth_first(edges: Edges) -> list[str]:
    """Every file after the files that it imports, each chain of imports followed to its end before the next begins.

    It starts at the files that nobody imports, by alphabet, then at what is left, which is cycles. Without recursion: a
    chain may be deeper than Python's stack.
    """
    imported = {target for targets in edges.values() for target in targets}
    order: list[str] = []
    met: set[str] = set()
    for start in [*sorted(edges.keys() - imported), *sorted(imported & edges.keys())]:
        if start in met:
            continue
        met.add(start)
        way = [(start, iter(sorted(edges[start])))]
        while way:
            path, targets = way[-1]
            following = next((target for target in targets if target not in met), None)
            if following is None:
                order.append(path)
                way.pop()
            else:
                met.add(following)
                way.append((following, iter(sorted(edges[following]))))
    return order


@dataclass(frozen=True)
class Samples:
    """The conversations of one repository."""

    repository: Repository
    tokenizer: Tokenizer
    max_tokens: int

    def of(self, records: Iterable[Record]) -> Iterator[Keep | Drop]:
        """Its samples, each as long as its files allow; files that no sample can hold are dropped."""
        by_path = files_by_path(records)
        edges = import_edges({path: same[0]["text"] for path, same in by_path.items() if same[0]["lang"] not in PROSE})
        instruction = instructed(self.repository, by_path)
        taken: list[Record] = []
        turns: list[Turn] = []
        room = 0
        for path in with_prose(depth_first(edges), set(by_path) - set(edges)):
            file, *others = by_path[path]
            yield from (Drop("another_file_there", other, value=path, threshold="one file a path") for other in others)
            if not file["text"].strip() or ACTIONS.search(file["text"]):  # an answer would say those as special tokens
                yield Drop("no_answer", file, value=path, threshold="text without the names of a chat's actions")
                continue
            next_turns = asked_and_answered(file, edges.get(path, ()))
            size = self._tokens(next_turns)
            if taken and size > room:
                yield Keep(self._sample(taken, turns))
                taken, turns = [], []
            if not taken:
                room = self.max_tokens - self._tokens([{"role": "system", "content": instruction}]) - 1
                turns = [{"role": "system", "content": instruction}]
            if size > room:
                yield Drop("longer_than_a_sample", file, value=size, threshold=room)
                continue
            taken, turns, room = [*taken, file], [*turns, *next_turns], room - size
        if taken:
            yield Keep(self._sample(taken, turns))

    def _tokens(self, turns: Sequence[Turn]) -> int:
        """Of turns as a part of a conversation: they are encoded apart, so their lengths add up."""
        return len(encode(turns, self.tokenizer).ids) - 1

    def _sample(self, files: Sequence[Record], turns: Sequence[Turn]) -> Record:
        record = {"messages": list(turns), "source": self.repository.source, "path": files[0]["path"]}
        parts = [{"id": file["id"], "path": file["path"]} for file in files]
        return record | {"id": identity(self.repository.source, record), "files": parts}


def instructed(repository: Repository, by_path: Mapping[str, Sequence[Record]]) -> str:
    """What a sample is told first: whose files these are, and in what order they come."""
    languages = sorted({same[0]["lang"] for same in by_path.values()})
    return (
        f"You write the repository {repository}: {len(by_path)} files of {', '.join(languages)}. Answer with one file at a "
        "time, when it is asked for. A file comes after those that it imports."
    )


def asked_and_answered(file: Record, imports: Iterable[str]) -> list[Turn]:
    """The prompt that describes a file in a line, and the file as a section of a document."""
    needs = f" It imports {', '.join(sorted(imports))}." if imports else ""
    asked = f"{file['path']} ({file['lang']}){described(file['text'])}{needs}"
    return [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": markdown(file["path"], file["lang"], file["text"]).rstrip()},
    ]


_FIRST_WORDS = re.compile(
    r'\s*(?:(?:"""|\'\'\'|/\*\*?|//[/!]?|#(?!!)|--)\s*)([^\n]*?)\s*(?:"""|\'\'\'|\*/|$)', re.MULTILINE
)
_MOST = 120


def described(text: str) -> str:
    """`: ` and what a file says of itself in its first line, if that is a comment, a docstring or a heading."""
    said = _FIRST_WORDS.match(text)
    words = said[1].lstrip("#*/ ") if said else ""
    return f": {words[:_MOST].rstrip()}" if len(words) > 3 else ""
