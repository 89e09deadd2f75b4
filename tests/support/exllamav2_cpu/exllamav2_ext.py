"""What ExLlamaV2's generators call of its extension, which is built for GPUs only, in PyTorch."""


def count_match(a, b, length):
    """How many ids two sequences have in common at their beginning."""
    count = 0
    while count < min(length, a.shape[-1], b.shape[-1]) and a[0, count] == b[0, count]:
        count += 1
    return count


def sample_basic(logits, *arguments):
    """The likeliest token, into the tensors that are given for it."""
    tokens, probabilities = arguments[8:10]
    tokens.copy_(logits[:, -1, :].argmax(dim=-1, keepdim=True))
    probabilities.fill_(1.0)
    return []


def apply_rep_penalty(*_arguments):
    """No penalty."""


def partial_strings_match(_text, *_arguments):
    """No string to stop at."""
    return -1


def cache_rotate(*_arguments):
    """Nothing to move in a cache that holds nothing."""
