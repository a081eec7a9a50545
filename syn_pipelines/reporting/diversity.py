"""How alike sentences are. All measures are defined elsewhere and cited; all work on samples, so their cost is bounded.

- distinct-n: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", NAACL 2016: different
  n-grams divided by all n-grams. It falls with the amount of text, so compare samples of equally many tokens.
- Self-BLEU: Zhu et al., "Texygen: A Benchmarking Platform for Text Generation Models", SIGIR 2018: the mean BLEU of each
  sentence with all others as references; 1 when every sentence has a twin. BLEU is that of Papineni et al., ACL 2002, up to
  4-grams, with the smoothing 1 of Chen and Cherry, WMT 2014, for n-grams that match nowhere.
- resemblance: Broder, "On the resemblance and containment of documents", 1997: the Jaccard coefficient of the sets of
  shingles, here pairs of neighbouring tokens. Pairs above a threshold are found exactly, by the prefix filter of Chaudhuri et
  al., ICDE 2006: two sets that are alike share one of their rarest shingles.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

Tokens = Sequence[str]
Shingles = frozenset[tuple[str, ...]]
NEAR = 0.7  # resemblance from which two sentences count as near-duplicates
_EPSILON = 0.1  # matches that stand in for none, as in smoothing 1


def ngrams(tokens: Tokens, n: int) -> Iterable[tuple[str, ...]]:
    """All n-grams in order."""
    return zip(*(islice(tokens, k, None) for k in range(n)))


def same_amount(a: Sequence[Tokens], b: Sequence[Tokens]) -> tuple[list[Tokens], list[Tokens]]:
    """Both samples cut behind the same number of tokens."""
    budget = min(sum(map(len, a)), sum(map(len, b)))
    return _first_tokens(a, budget), _first_tokens(b, budget)


def _first_tokens(sentences: Sequence[Tokens], budget: int) -> list[Tokens]:
    result = []
    for tokens in sentences:
        if budget <= 0:
            break
        result.append(tokens[:budget])
        budget -= len(result[-1])
    return result


def distinct_n(sentences: Iterable[Tokens], n: int) -> float | None:
    """Share of different n-grams among all, in (0, 1]; None where there is no n-gram."""
    total, seen = 0, set()
    for tokens in sentences:
        found = list(ngrams(tokens, n))
        total += len(found)
        seen.update(found)
    return len(seen) / total if total else None


def self_bleu(sentences: Sequence[Tokens], max_n: int = 4) -> float | None:
    """Mean BLEU of each sentence against all others, in [0, 1]; None for fewer than two sentences."""
    if len(sentences) < 2:
        return None
    counted = [[Counter(ngrams(tokens, n)) for tokens in sentences] for n in range(1, max_n + 1)]
    most = [_two_highest(counts) for counts in counted]
    lengths = sorted(map(len, sentences))
    total = 0.0
    for place, tokens in enumerate(sentences):
        shares = [_precision(counts[place], best, place) for counts, best in zip(counted, most) if counts[place]]
        if shares and shares[0]:  # BLEU is 0 where not even a token is shared
            logs = [math.log(share or _EPSILON / counts[place].total()) for share, counts in zip(shares, counted)]
            total += _brevity(len(tokens), lengths) * math.exp(sum(logs) / len(logs))
    return total / len(sentences)


def _two_highest(counts: Sequence[Counter]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """For each n-gram: its highest count in one sentence, which sentence that is, and the highest in any other."""
    best: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for place, found in enumerate(counts):
        for gram, count in found.items():
            first, holder, second = best.get(gram, (0, -1, 0))
            best[gram] = (count, place, first) if count > first else (first, holder, max(second, count))
    return best


def _precision(found: Counter, best: Mapping[tuple[str, ...], tuple[int, int, int]], place: int) -> float:
    """Clipped share of n-grams that another sentence has, too."""
    matched = 0
    for gram, count in found.items():
        first, holder, second = best[gram]
        matched += min(count, second if holder == place else first)
    return matched / found.total()


def _brevity(length: int, lengths: Sequence[int]) -> float:
    """BLEU's penalty for a sentence shorter than the reference whose length is nearest. lengths: sorted, its own included."""
    at = bisect_left(lengths, length)
    others = [*lengths[max(at - 1, 0):at], *lengths[at + 1:at + 2]]
    nearest = min(others, key=lambda other: (abs(other - length), other))
    return 1.0 if length >= nearest else math.exp(1 - nearest / length)


def shingles(tokens: Tokens) -> Shingles:
    """Pairs of neighbouring tokens; of a single token, the token."""
    return frozenset(ngrams(tokens, 2)) or frozenset([tuple(tokens)])


def resemblance(a: Tokens, b: Tokens) -> float:
    """Jaccard coefficient of the shingles, in [0, 1]."""
    first, second = shingles(a), shingles(b)
    return len(first & second) / len(first | second)


def near_duplicates(sentences: Sequence[Tokens], threshold: float = NEAR) -> int:
    """How many sentences have another among them with at least this resemblance."""
    sets = [shingles(tokens) for tokens in sentences]
    times = Counter(set_ for set_ in sets)  # equal sets are looked at once
    different = list(times)
    frequency = Counter(shingle for set_ in different for shingle in set_)
    alike = [times[set_] > 1 for set_ in different]
    index: dict[tuple[str, ...], list[int]] = {}
    for place in sorted(range(len(different)), key=lambda k: len(different[k])):
        own = different[place]
        rarest = sorted(own, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rarest[:len(own) - math.ceil(threshold * len(own)) + 1]
        for other in dict.fromkeys(k for shingle in prefix for k in index.get(shingle, ())):
            if not (alike[place] and alike[other]) and _are_alike(own, different[other], threshold):
                alike[place] = alike[other] = True
        for shingle in prefix:
            index.setdefault(shingle, []).append(place)
    return sum(times[set_] for set_, found in zip(different, alike) if found)


def _are_alike(a: Shingles, b: Shingles, threshold: float) -> bool:
    shared = len(a & b)
    return shared >= threshold * (len(a) + len(b) - shared)
