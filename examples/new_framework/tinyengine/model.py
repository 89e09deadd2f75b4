"""A model that adds numbers up, and one that counts on: enough to have a batch, tokens, a stream and errors."""


class PromptTooLongError(ValueError):
    """The prompt has more tokens than the model takes."""


class Model:
    """Predicts at once, and generates token by token."""

    def __init__(self, name, device="cpu", context=16):
        self.name = name
        self.device = device
        self.context = context

    def predict(self, rows):
        """One number per row: the whole batch in one pass."""
        return [float(sum(row)) for row in rows]

    def generate(self, prompt, max_tokens=8):
        """Token ids, one by one, each of them after a pass through the model."""
        if len(prompt) > self.context:
            raise PromptTooLongError(f"{len(prompt)} tokens, of which {prompt[-1]} is the last")
        last = prompt[-1]
        for _ in range(max_tokens):
            last = int(self.predict([[last, 1]])[0])
            yield last


class Tuner:
    """Trains a model, which predicts in between to see how it is doing."""

    def __init__(self, model):
        self.model = model

    def fit(self, rows, rounds=3):
        """Call the model once per round."""
        for _ in range(rounds):
            self.model.predict(rows)
        return self.model
