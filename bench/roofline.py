"""What a training step must take at least, part by part, at the roofs that were measured on the machine."""


def limit(model, batch, length, parameters, active, products, copied, *, head=True, size=2):
    """Milliseconds of each part of a step.

    model: a ModelConfig. active: parameters that each token is multiplied with; head: whether the vocabulary's are
    among them. products: FLOP/s of matrix products; attention gets half of that. copied: bytes/s read and written.
    size: bytes of a number of the stream; weights and optimizer state are float32, and weights are cast to 2 bytes.
    """
    tokens, last = batch * length, model.vocab * model.width if head else 0
    passes = 7 * 4 + (2 if size == 2 else 0)  # weight, gradient and two moments read, three written, and the cast
    seconds = {
        "blocks' products": 6 * (active - last) * tokens / products,
        "head": 6 * last * tokens / products,
        "attention": 6 * model.layers * length * model.heads * model.head_size * tokens / (products / 2),
        "optimizer": parameters * passes / copied,
        "pointwise": tokens * model.layers * model.width * size * 20 / copied,  # about twenty passes, both ways
    }
    return {part: 1e3 * one for part, one in seconds.items()}
