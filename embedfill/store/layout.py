"""Every key of the store, and nothing else: no other module builds one. Zero-padded numbers keep listings in order."""

STORE = "store.json"  # the store's identity, made at first use
PUBLISHED = "published/"
PLANS = "plans/"
DOOMED = "doomed/"
PLANS = "plans/"
# What may be removed once nothing refers to it, in the order in which it is: what refers before what is referred to.
PRUNABLE = (
    "snapshots", "catalogs", "index", "documents", "chunks", "rejections", "shards", "refusals", "packs", "pins",
    "clock", "probes",
)  # fmt: skip
FORMAT = 1  # version of everything below; a store of a newer one is refused


def probe(nonce: str) -> str:
    """Where a store is tried out before it is shared; removed again."""
    return f"probes/{nonce}"


def documents(digest: str) -> str:
    return f"documents/{digest}.parquet"


def chunks(spec: str, digest: str = "") -> str:
    """A chunk table, or the prefix of all tables of one chunking configuration."""
    return f"chunks/{spec}/{digest}.parquet" if digest else f"chunks/{spec}/"


def catalog(digest: str) -> str:
    return f"catalogs/{digest}.json"


def corpus_rejections(digest: str) -> str:
    return f"rejections/{digest}.jsonl"


def shard(space: str, shard_id: str) -> str:
    return f"shards/{space}/{shard_id}.parquet"


def plan(space: str, number: int | None = None) -> str:
    return f"{PLANS}{space}/" if number is None else f"{PLANS}{space}/{number:08d}.json"


def claim(space: str, shard_id: str = "", attempt: int = 0) -> str:
    return _attempt("claims", space, shard_id, attempt)


def batch(space: str, shard_id: str = "", attempt: int = 0) -> str:
    """The batch reference of a claim: the provider's batch id, or void."""
    return _attempt("batches", space, shard_id, attempt)


def outcome(space: str, shard_id: str = "", attempt: int = 0) -> str:
    return _attempt("outcomes", space, shard_id, attempt)


def pack(space: str, digest: str) -> str:
    return f"packs/{space}/{digest}.parquet"


def pack_ids(pack_key: str) -> str:
    """The sorted text ids that lie beside a pack."""
    return pack_key.removesuffix(".parquet") + ".ids"


def refusals(space: str, digest: str) -> str:
    return f"refusals/{space}/{digest}.json"


def forgiven(space: str, digest: str = "") -> str:
    """What takes refusals back, or the prefix of all such objects of a space."""
    return f"forgiven/{space}/{digest}.json" if digest else f"forgiven/{space}/"


def index_file(digest: str, name: str) -> str:
    return f"index/{digest}/{name}"


def snapshot(digest: str) -> str:
    return f"snapshots/{digest}.json"


def published(number: int) -> str:
    return f"{PUBLISHED}{number:08d}.json"


def clock(nonce: str) -> str:
    """An empty object, made only to read the store's time off it."""
    return f"clock/{nonce}"


def doomed(number: int | None = None) -> str:
    """A list of objects that prune found to be of no use, and will remove at a later visit."""
    return DOOMED if number is None else f"{DOOMED}{number:08d}.json"


def sweep(nonce: str = "") -> str:
    """The mark of a prune that is removing objects, or the prefix of all of them."""
    return f"sweeps/{nonce}.json" if nonce else "sweeps/"


def pin(nonce: str = "") -> str:
    """What a run is at work with and nothing else refers to yet, or the prefix of all such notes."""
    return f"pins/{nonce}.json" if nonce else "pins/"


def job(space: str = "") -> str:
    """What the space of a job stands for, or the prefix of all such notes: they are what a store's jobs are found by."""
    return f"jobs/{space}.json" if space else "jobs/"


def job_of(key: str) -> str:
    """The space in the key of a job's note."""
    return key.rpartition("/")[2].removesuffix(".json")


def space_of(key: str) -> str:
    """The space in the key of a shard, a plan, a claim, a batch reference, an outcome, a pack or refusals."""
    return key.split("/")[1]


def kind_of(key: str) -> str:
    """The first part of a key."""
    return key.partition("/")[0]


def number_of(key: str) -> int:
    """The number in the key of a plan, a publication or a list of doomed objects."""
    return int(key.rpartition("/")[2].removesuffix(".json"))


def attempt_of(key: str) -> tuple[str, int]:
    """Shard and attempt in the key of a claim, a batch reference or an outcome."""
    shard_id, _, attempt = key.rpartition("/")[2].removesuffix(".json").partition("-")
    return shard_id, int(attempt)


def _attempt(kind: str, space: str, shard_id: str, attempt: int) -> str:
    # Flat, so that one listing gives the state of all shards of a space.
    return f"{kind}/{space}/{shard_id}-{attempt:04d}.json" if shard_id else f"{kind}/{space}/"
