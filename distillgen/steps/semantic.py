"""What means alike: a text as the mean of its tokens' static vectors (wordllama), compared by cosine with all others.

There is no index: every row is compared with every row kept before, which is sensible up to some 200,000 rows. Vectors
are whole numbers, so that what decides is exact: neither blocks nor a processor's ways of adding change it.
"""

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distillgen.errors import ExtraMissing
from distillgen.steps.near_index import Crowded

Vectors: TypeAlias = NDArray[np.int8]  # shape (texts, DIMENSIONS)

DIMENSIONS = 256
LARGEST = 127  # of a vector's numbers
TOKENS = 4096  # added up at once
ROWS = 2048  # compared at once
SLACK = 1e-5  # of the first comparison, in 32-bit floats


def embed(texts: Sequence[str]) -> Vectors:
    """Return the vector of each text, nothing but zeros for one without tokens.

    Raises ExtraMissing when the embedding is not installed.
    """
    tokenizer, table = _model()
    spelled = [text.encode("utf-8", "replace").decode() for text in texts]
    found = tokenizer.encode_batch_fast(spelled, add_special_tokens=False)
    vectors = np.zeros((len(texts), DIMENSIONS), np.int8)
    for place, each in enumerate(found):
        tokens = np.array(each.ids, np.int64)
        total = np.zeros(DIMENSIONS, np.float32)
        for start in range(0, len(tokens), TOKENS):
            total += table[tokens[start : start + TOKENS]].sum(axis=0, dtype=np.float32)
        if (largest := np.abs(total).max()) > 0:
            vectors[place] = np.rint(total / largest * LARGEST)
    return vectors


def pairs_alike(
    mine: Vectors, theirs: Vectors, threshold: float, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the pairs of a row of one side and a row of the other whose cosine reaches the threshold, and the cosines.

    Raises Crowded when there are more of them than `most`.
    """
    left = _unit(mine)
    places, numbers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(theirs), ROWS):
        rough = left @ _unit(theirs[start : start + ROWS]).T
        rows, columns = np.nonzero(rough >= threshold - SLACK)
        places.append(rows)
        numbers.append(columns + start)
        if sum(map(len, places)) > most:
            raise Crowded
    rows, columns = np.concatenate(places), np.concatenate(numbers)
    cosines = _cosines(mine[rows], theirs[columns])
    sure = cosines >= threshold
    return rows[sure], columns[sure], cosines[sure]


def _unit(vectors: Vectors) -> NDArray[np.float32]:
    floats = vectors.astype(np.float32)
    lengths = np.sqrt(np.square(floats).sum(axis=1, keepdims=True))
    np.divide(floats, lengths, out=floats, where=lengths > 0)
    return floats


def _cosines(left: Vectors, right: Vectors) -> NDArray[np.float64]:
    """Return the cosine of each pair of vectors, none of which is all zeros."""

    def products(one: Vectors, other: Vectors) -> NDArray[np.int64]:
        total: NDArray[np.int64] = (one.astype(np.int32) * other).sum(axis=1, dtype=np.int64)
        return total

    cosines: NDArray[np.float64] = products(left, right) / np.sqrt(products(left, left) * products(right, right))
    return cosines


def require_embedding() -> Path:
    """Return the folder of the package with the embedding. Raises ExtraMissing when it is not installed."""
    found = importlib.util.find_spec("wordllama")
    needed = (found, importlib.util.find_spec("tokenizers"), importlib.util.find_spec("safetensors"))
    if found is None or not found.submodule_search_locations or not all(needed):
        raise ExtraMissing("comparing by meaning needs the package wordllama", fix="pip install 'distillgen[semantic]'")
    return Path(found.submodule_search_locations[0])


@functools.cache
def _model() -> tuple[Any, NDArray[np.float32]]:
    """Return the tokenizer and the vector of each token.

    The package's files are used, not its code: that would set up logging and look for a cache in the home folder.
    """
    folder = require_embedding()
    tokenizers, safetensors = importlib.import_module("tokenizers"), importlib.import_module("safetensors.numpy")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    table = safetensors.load_file(folder / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
    return tokenizer, table.astype(np.float32)
